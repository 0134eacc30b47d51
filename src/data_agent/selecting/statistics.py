"""What every sample showed over training: losses, what the model believed of its label, visits.

No selection depends on it. It is what an audit of the data reads: over training a wrong label costs
more than a right one, and another class is believed instead of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_agent.errors import CheckpointError
from data_agent.runtime.state import require_tensor
from data_agent.selecting.feedback import Feedback
from data_agent.suspicion import SUSPICIOUS, suspicion

UNKNOWN = -1  # a label that never came or is no class, and an empty place of a candidate
ABSENT = -4.0  # in rows: a value that a batch did not bring; all values are -1 or more
UNSEEN = math.inf  # in columns: a value that no batch brought; nan is not equal to itself
CANDIDATES = 2  # other classes that are remembered of a sample
LARGEST_LABEL = 2**31 - 1
_BLOCK = 65_536  # samples that are merged at a time

_READS = ("logits", "labels", "uncertainty")
_ROWS = {  # parts of rows, and their dtypes
    "loss": torch.float32,
    "uncertainty": torch.float32,
    "label": torch.int32,
    "probability": torch.float32,
    "margin": torch.float32,
    "other": torch.int32,
}
_COLUMNS = {  # by the part of rows that brings them
    "loss": ("visits", "loss", "mean_loss"),
    "uncertainty": ("uncertainty",),
    "label": ("label",),
    "margin": ("mean_probability", "margin", "others", "votes"),
}
_WHOLE = ("visits", "label", "others")  # int32; the others are float32
_WIDE = ("others", "votes")  # [N, CANDIDATES]


class SampleStatistics:
    """Of each sample: visits, the last and the mean of what its visits showed.

    12 bytes a sample; 4 more with uncertainties (logits bring them), 4 with labels and 24 with
    labels and logits: 44 at most, none before the first epoch. Means are over all visits.

    Which other class was believed most is a vote: a visit adds the probability of the likeliest
    other class to that class's votes. Two classes are counted, by the algorithm of Misra and Gries
    1982, "Finding repeated elements", https://doi.org/10.1016/0167-6423(82)90012-0: any class
    with more than a third of all votes is among them.

    Args:
        num_samples: N.
    """

    def __init__(self, num_samples: int) -> None:
        self.name, self.reads, self.dtypes = "samples", _READS, _ROWS
        self._num_samples = num_samples
        self._columns: dict[str, Tensor] = {}

    def record(self, feedback: Feedback) -> dict[str, Tensor]:
        """What rows show, `[B]` each, on their device: `ABSENT` or `UNKNOWN` where nothing does.

        "probability" is that of the label, "margin" what it has more than the likeliest other
        class, "other", and "uncertainty" that of the feedback or the entropy over log C.
        """
        losses, logits, labels = feedback.losses.float(), feedback.logits, feedback.labels
        label = torch.full_like(losses, UNKNOWN, dtype=torch.int32)
        absent = torch.full_like(losses, ABSENT)
        probability, margin, other, uncertainty = absent, absent, label, feedback.uncertainty
        if labels is not None:
            labels = labels.to(losses.device, torch.int64, non_blocking=True)
            largest = LARGEST_LABEL if logits is None else logits.shape[1] - 1
            labels = torch.where((labels < 0) | (labels > largest), UNKNOWN, labels)
            label = labels.to(torch.int32)
        if logits is not None:
            p = torch.softmax(logits, dim=1, dtype=torch.float32)
            if uncertainty is None:
                uncertainty = torch.special.entr(p).sum(1) / math.log(p.shape[1])
            if labels is not None:
                is_class = labels >= 0
                own, most, which = belief(p, labels.clamp(min=0))
                probability = torch.where(is_class, own, ABSENT)
                margin = torch.where(is_class, own - most, ABSENT)
                other = torch.where(is_class, which, UNKNOWN).to(torch.int32)
        return {
            "loss": losses,
            "uncertainty": absent if uncertainty is None else uncertainty.float(),
            "label": label,
            "probability": probability,
            "margin": margin,
            "other": other,
        }

    def suspicion(self) -> Tensor | None:
        """How suspicious each label is, float64 `[N]`, see `suspicion`; None before any came."""
        if not self._columns:
            return None
        columns = {name: self._columns[name] for name in SUSPICIOUS if name in self._columns}
        return torch.from_numpy(suspicion({n: _shown(c.numpy()) for n, c in columns.items()}))

    def check(self, index: Tensor, rows: Mapping[str, Tensor]) -> None:
        """Nothing is amiss in any rows."""
        del index, rows

    def merge(self, index: Tensor, rows: Mapping[str, Tensor]) -> None:
        """Take in rows of distinct samples."""
        if not len(index):
            return
        self._make_room("loss")
        for part, nothing in (("uncertainty", ABSENT), ("label", UNKNOWN), ("margin", ABSENT)):
            if bool((rows[part] != nothing).any()):
                self._make_room(part)
        columns = (rows[name].split(_BLOCK) for name in self.dtypes)
        for at, *values in zip(index.split(_BLOCK), *columns, strict=True):
            self._merge_block(at.numpy(), *(column.numpy() for column in values))

    def _merge_block(
        self,
        index: NDArray[np.int64],
        loss: NDArray[np.float32],
        uncertainty: NDArray[np.float32],
        label: NDArray[np.int32],
        probability: NDArray[np.float32],
        margin: NDArray[np.float32],
        other: NDArray[np.int32],
    ) -> None:
        own = {name: column.numpy() for name, column in self._columns.items()}
        own["visits"][index] += 1
        own["loss"][index] = loss
        self._average("mean_loss", index, loss)
        if "uncertainty" in own:
            came = uncertainty != ABSENT
            self._average("uncertainty", index[came], uncertainty[came])
        if "label" in own:
            came = label != UNKNOWN
            own["label"][index[came]] = label[came]
        if "margin" in own:
            came = margin != ABSENT
            index, other, p, margin = index[came], other[came], probability[came], margin[came]
            self._average("mean_probability", index, p)
            self._average("margin", index, margin)
            voted = vote(own["others"][index], own["votes"][index], other, p - margin)
            own["others"][index], own["votes"][index] = voted

    def _average(self, name: str, index: NDArray[np.int64], now: NDArray[np.float32]) -> None:
        """Add a visit to a mean over visits; one without the value counts as if it had the mean."""
        column, visits = self._columns[name].numpy(), self._columns["visits"].numpy()
        before = column[index]
        is_first = before == UNSEEN
        before[is_first] = now[is_first]
        column[index] = before + (now - before) / visits[index].astype(np.float32)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """`[N]` each, of what came: nan where a sample did not show it, -1 where it has no class.

        "visits" int64, "loss" of the last visit, "mean_loss", "uncertainty" (the mean), "label",
        "mean_probability" of the label, "margin" (the mean), "suggested_label".
        """
        self._make_room("loss")
        found: dict[str, NDArray[Any]] = {}
        for name, column in self._columns.items():
            values = column.numpy()
            if name in _WHOLE:
                found[name] = values.astype(np.int64)
            else:
                found[name] = _shown(values)
        if "margin" in found:
            others, votes = found.pop("others"), found.pop("votes")
            other = np.take_along_axis(others, votes.argmax(1)[:, None], 1)[:, 0]
            found["suggested_label"] = np.where(found["margin"] < 0, other, found["label"])
        return found

    def copy(self) -> SampleStatistics:
        """A table with the same columns, that changes alone."""
        other = SampleStatistics(self._num_samples)
        other._columns = self.state_dict()
        return other

    def _make_room(self, part: str) -> None:
        """Allocate the columns that a part of rows brings, where that was not done yet."""
        for name in _COLUMNS[part]:
            if name not in self._columns:
                self._columns[name] = self._empty(name)

    def _empty(self, name: str) -> Tensor:
        shape = (self._num_samples, CANDIDATES) if name in _WIDE else (self._num_samples,)
        if name in _WHOLE:
            return torch.full(shape, 0 if name == "visits" else UNKNOWN, dtype=torch.int32)
        return torch.full(shape, 0.0 if name == "votes" else UNSEEN, dtype=torch.float32)

    def state_dict(self) -> dict[str, Any]:
        """The columns, none if there are none yet."""
        return {name: column.clone() for name, column in self._columns.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned.

        Raises:
            CheckpointError: a column that we do not know, of another shape or dtype, or classes
                and visits that cannot be.
        """
        columns: dict[str, Tensor] = {}
        for group in _COLUMNS.values():
            for name in group if group[0] in state else ():
                empty = self._empty(name)
                shape, dtype = tuple(empty.shape), empty.dtype
                columns[name] = require_tensor(state, name, shape=shape, dtype=dtype)
                if name in _WHOLE and int(columns[name].min()) < int(empty.min()):
                    raise CheckpointError(f"the samples' {name} hold {int(columns[name].min())}.")
        if set(state) != set(columns):
            raise CheckpointError(f"the samples' columns are {sorted(state)}.")
        self._columns = columns


def _shown(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.where(values == UNSEEN, np.float32(np.nan), values)


def belief(probability: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each label's probability, that of the likeliest other class, and which class that is.

    Args:
        probability: float `[B, C]`.
        labels: int64 `[B]` in [0, C).

    Returns:
        float `[B]`, float `[B]`, int64 `[B]`.
    """
    at = labels.unsqueeze(1)
    most, which = probability.scatter(1, at, -1.0).max(1)
    return probability.gather(1, at).squeeze(1), most.clamp(min=0), which


def vote(
    others: NDArray[np.int32],
    votes: NDArray[np.float32],
    other: NDArray[np.int32],
    weight: NDArray[np.float32],
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """A weighted vote for one class of each sample.

    A class that is counted gets the weight. One that is not takes it from every class that is, down
    to the first that has nothing left, and takes that one's place with the rest (Misra and Gries
    1982, with weights).

    Args:
        others: int32 `[M, K]`, the classes counted; -1 for an empty place, which has no votes.
        votes: float32 `[M, K]`, 0 or more.
        other: int32 `[M]`, the class voted for.
        weight: float32 `[M]`, 0 or more.

    Returns:
        `others` and `votes` after it, new arrays.
    """
    is_it = others == other[:, None]
    is_new = ~is_it.any(1)
    least = votes.argmin(1)
    taken = np.where(is_new, np.minimum(votes.min(1), weight), np.float32(0))
    votes = np.where(is_it, votes + weight[:, None], votes - taken[:, None])
    rest = weight - taken
    moves = np.flatnonzero(is_new & (rest > 0))
    others = others.copy()
    others[moves, least[moves]], votes[moves, least[moves]] = other[moves], rest[moves]
    return others, votes
