"""What is remembered of each sample's label, and what it allows a ranking to choose."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_agent.errors import CheckpointError
from data_agent.labels.changes import BEYOND, UNKNOWN, warn_of_labels
from data_agent.labels.classes import Classes
from data_agent.labels.evidence import Evidence, evidence_of
from data_agent.labels.margins import judge
from data_agent.labels.rules import LabelRules
from data_agent.labels.shares import equal_shares
from data_agent.runtime.masks import neither, packed, size_of, unpacked
from data_agent.runtime.random import hashed
from data_agent.runtime.state import require_tensor
from data_agent.runtime.topk import BLOCK, highest_of_each, top_k_mask
from data_agent.selecting.feedback import Feedback

STEPS = 127  # of a margin, from 0 to 1
UNSEEN = -128  # in place of a margin
FIRST = 128  # in the signs: the label was among the likeliest; below it how far it came last
MOST_VISITS = 255  # a byte; from then on a visit counts in the mean as if it were this one
MOST_ESTIMATES = 8  # of the share of wrong labels, where none is left out
LARGEST_SMALL = 2**15 - 1  # a label that int16 holds
LARGEST_LABEL = 2**31 - 1


class LabelTable:
    """Each sample's label and what the model thought of it: 6 bytes, none before the first epoch.

    The label is an int16 (an int32, so 8 bytes, once one needs it), margin and mean margin are in
    steps of 1/127, rounded at random so that they are right on average.

    Args:
        num_samples: N.
        rules: which rules are on, and their thresholds.
    """

    name: ClassVar[str] = "labels"
    reads: ClassVar[tuple[str, ...]] = ("logits", "labels")
    dtypes: ClassVar[Mapping[str, torch.dtype]] = {
        "label": torch.int32,
        "margin": torch.int8,
        "signs": torch.uint8,
    }

    def __init__(self, num_samples: int, rules: LabelRules) -> None:
        self.rules = rules
        self._num_samples = num_samples
        self._columns: dict[str, Tensor] = {}
        self._shares = torch.zeros(2, dtype=torch.float64)  # sum and number of estimates
        self._num_merges = 0
        self._num_classes = 0  # as the logits have; 0 while none came
        self._left_out: Tensor | None = None  # a bit a sample, once somebody asked
        self._count_signs()

    # What a batch shows, and what stays of it.

    def record(self, feedback: Feedback) -> dict[str, Tensor]:
        """What to keep of rows, `[B]` each, on their device.

        "label", `UNKNOWN` or `BEYOND` where it is no class; "margin" in 127ths, `UNSEEN` where
        nothing was judged; "signs", `FIRST` plus 127ths of `Verdict.last`.
        """
        size, device, logits = len(feedback), feedback.losses.device, feedback.logits
        labels = feedback.labels
        margin = torch.full((size,), UNSEEN, dtype=torch.int8, device=device)
        signs = torch.zeros(size, dtype=torch.uint8, device=device)
        if labels is None:
            label = torch.full((size,), UNKNOWN, dtype=torch.int32, device=device)
            return {"label": label, "margin": margin, "signs": signs}
        labels = labels.to(device, torch.int64, non_blocking=True)
        label = torch.where((labels < 0) | (labels > LARGEST_LABEL), UNKNOWN, labels)
        if logits is not None:
            num_classes = self._num_classes = logits.shape[1]
            label = torch.where(label >= num_classes, BEYOND, label)  # such as 255 for "ignore"
            is_class = label >= 0
            verdict = judge(logits, label.clamp(min=0))
            steps = (STEPS * verdict.margin).round()
            margin = torch.where(is_class, steps, UNSEEN).to(torch.int8)
            steps = (STEPS * verdict.last).round() + FIRST * verdict.ranks_first
            signs = (is_class * steps).to(torch.uint8)
        return {"label": label.to(torch.int32), "margin": margin, "signs": signs}

    def check(self, index: Tensor, rows: Mapping[str, Tensor]) -> None:
        """Warn of labels that cannot be what was meant; see `warn_of_labels`."""
        if self._columns:
            before = self._columns["label"][index]
        else:
            before = torch.tensor(UNKNOWN).expand(index.shape)
        warn_of_labels(before, rows["label"], self._num_classes)

    def merge(self, index: Tensor, rows: Mapping[str, Tensor]) -> None:
        """Take in rows of distinct samples; margins are averaged over visits, late ones most."""
        if not len(index):
            return
        self._make_room(int(rows["label"].max()))
        self.check(index, rows)
        self._num_merges += 1
        self._left_out = None
        for block in zip(
            index.split(BLOCK), *(rows[name].split(BLOCK) for name in self.dtypes), strict=True
        ):
            self._merge_block(*(column.numpy() for column in block))
        self._count_signs()
        if (share := self._share_to_show()) > 0:
            self._shares += torch.tensor([share, 1.0], dtype=torch.float64)

    def _merge_block(
        self,
        index: NDArray[np.int64],
        label: NDArray[np.int32],
        margin: NDArray[np.int8],
        signs: NDArray[np.uint8],
    ) -> None:
        own = {name: column.numpy() for name, column in self._columns.items()}
        tells = label >= 0  # a visit without a label takes nothing away
        index, label, margin, signs = _only(tells, index, label, margin, signs)
        own["label"][index] = label
        own["signs"][index] = signs
        index, margin = _only(margin != UNSEEN, index, margin)
        before, visits = own["margin"][index], own["visits"][index]
        memory = np.where(before == UNSEEN, 0.0, self.rules.memory).astype(np.float32)
        at_random = hashed(index, self._num_merges)
        own["margin"][index] = _mixed(before, margin, memory, at_random)
        visits = np.minimum(visits, MOST_VISITS - 1) + np.uint8(1)
        memory = 1 - 1 / visits.astype(np.float32)
        own["mean"][index] = _mixed(own["mean"][index], margin, memory, at_random)
        own["visits"][index] = visits

    # What the rules allow.

    def choose(
        self, scores: Tensor, count: int, excluded: Tensor, *, tie_seed: int, seed: int = 0
    ) -> Tensor:
        """The highest scores, with the classes' shares and doubtful labels last.

        Args:
            scores: `[N]`, as `top_k_mask`.
            count: how many.
            excluded: bool `[N]`, samples that are in the epoch already.
            tie_seed: seed of the order of equal scores.
            seed: of all other draws.

        Returns:
            Bool `[N]`, `count` of them, none of them excluded.
        """
        if not self._columns:
            return top_k_mask(scores, count, tie_seed=tie_seed, excluded=excluded)
        classes = Classes(self._columns["label"])
        doubtful = self.left_out()
        among = neither(excluded, doubtful)
        if (num_missing := count - size_of(among)) > 0:  # not without them: the least doubtful
            margin, others = self._columns["margin"], ~doubtful | excluded
            among |= top_k_mask(margin, num_missing, tie_seed=seed, excluded=others)
        sizes, taken = classes.sizes(among, excluded)
        if not self.rules.class_shares or not int(sizes[1:].sum()):
            return top_k_mask(scores, count, tie_seed=tie_seed, excluded=~among)
        # Samples of unknown class are no class: they come as often as they are there.
        num_others = math.floor(count * int(sizes[0]) / max(1, int(sizes.sum())) + 0.5)
        num_others = max(num_others, count - int(sizes[1:].sum()))
        quota = equal_shares(sizes[1:], taken[1:], count - num_others, seed=seed)
        quota = torch.cat([torch.tensor([num_others]), quota])
        return highest_of_each(scores, quota, tie_seed=tie_seed, group=classes.number, among=among)

    def shared_classes(self) -> Classes | None:
        """The classes that get equal shares; None where all samples count as one."""
        has_classes = self._columns and self.rules.class_shares
        return Classes(self._columns["label"]) if has_classes else None

    @property
    def doubtful_share(self) -> float:
        """The share of labels that training leaves out now: as estimated, 0 where held back."""
        share, reason = self._estimate()
        return 0.0 if reason else share

    def noise_level(self) -> tuple[float, int]:
        """The estimated share of wrong labels in [0, 1], and the number of classes.

        The share is 0 where labels say nothing of it: with few classes, few labels that come last,
        or so few that a model which knows little shows as many on right labels.
        """
        rules = self.rules
        evidence = evidence_of(self._num_of_signs.view(2, FIRST), self._num_classes, 1.0)
        if evidence is None or self._num_classes < rules.fewest_classes:
            return 0.0, self._num_classes
        is_enough = evidence.num_last >= rules.fewest_signs and evidence.share >= rules.least_share
        return (evidence.share if is_enough else 0.0), self._num_classes

    def left_out(self) -> Tensor:
        """Bool `[N]`: samples that training leaves out now, as their label is doubtful."""
        if not (share := self.doubtful_share):
            return torch.zeros(self._num_samples, dtype=torch.bool)
        if self._left_out is None:  # an epoch asks twice, when it begins and when it ends
            classes, margin = Classes(self._columns["label"]), self._columns["margin"]
            self._left_out = packed(
                lowest_of_each(margin, classes, share, tie_seed=self._num_merges)
            )
        return unpacked(self._left_out, self._num_samples)

    def suspects(self, suspicion: Tensor | None = None) -> Tensor:
        """Bool `[N]`: samples whose label is doubtful by all visits so far, for a person to see.

        In each class the most suspicious by all visits (of `suspicion`, float `[N]`; without it
        the lowest mean margin, which tells a little less, see docs/audit.md), as many as the
        mean of all estimates says, rounded down, whatever training leaves out by its rules: of few
        classes, few wrong labels, or with `doubtful_labels=False`. None of it vanishes as a model
        memorises labels. An estimate is too high rather than too low, most so with few classes: of
        two it is the error on the training data. No sample is named while nothing tells: before the
        second epoch, without logits, and as long as the model is hardly better than chance.
        """
        total, number = self._shares.tolist()
        if not number:
            return torch.zeros(self._num_samples, dtype=torch.bool)
        classes, margin = Classes(self._columns["label"]), self._columns["mean"]
        if suspicion is None:
            return lowest_of_each(margin, classes, total / number)
        seen = margin != UNSEEN
        quota = (total / number * classes.sizes(seen)[0]).long()
        return highest_of_each(suspicion, quota, tie_seed=0, group=classes.number, among=seen)

    def in_words(self) -> str:
        """What the rules do now: "equal class shares; doubtful labels: off, 2 classes"."""
        rules = self.rules
        shares = "equal class shares" if rules.class_shares else "class shares: off"
        share, reason = self._estimate()
        doubtful = f"off, {reason}" if reason else f"{share:.0%} left out"
        return f"{shares}; doubtful labels: {doubtful}"

    def metrics(self) -> dict[str, float]:
        """The share of doubtful labels, where the rule is on."""
        return {"doubtful_share": self.doubtful_share} if self._doubts_labels else {}

    @property
    def _doubts_labels(self) -> bool:
        rules, num_classes = self.rules, self._num_classes
        return rules.doubtful_labels and num_classes >= rules.fewest_classes

    def _count_signs(self) -> None:
        """int64 `[256]`: how many of the samples that were judged show which signs."""
        self._num_of_signs = torch.zeros(256, dtype=torch.int64)
        if not self._columns:
            return
        columns = (self._columns[name].split(BLOCK) for name in ("signs", "margin"))
        for signs, margin in zip(*columns, strict=True):
            seen = signs.numpy()[margin.numpy() != UNSEEN]
            self._num_of_signs += torch.from_numpy(np.bincount(seen, minlength=256))

    def _evidence(self) -> Evidence | None:
        num_of_signs = self._num_of_signs.view(2, FIRST)
        return evidence_of(num_of_signs, self._num_classes, self.rules.most_share)

    def _estimate(self) -> tuple[float, str]:
        """The estimated share of wrong labels, and why none is left out, if so."""
        rules, evidence = self.rules, self._evidence()
        if not rules.doubtful_labels:
            return 0.0, "by its setting"
        if 0 < self._num_classes < rules.fewest_classes:
            return 0.0, f"{self._num_classes} classes"
        if evidence is None:
            return 0.0, "no labels with logits so far"
        if evidence.num_last < rules.fewest_signs or evidence.share < rules.least_share:
            return evidence.share, f"fewer than {rules.least_share:.0%} look wrong"
        if evidence.is_near_chance(rules.least_right):
            return evidence.share, "the model is near chance"
        return evidence.share, ""

    def _share_to_show(self) -> float:
        """The estimate where it tells a person something, whatever training leaves out; else 0.

        A model that has memorised the wrong labels says nothing of them any more: what training
        does not leave out is estimated in the first epochs, and not from far less than before.
        """
        if (left_out := self.doubtful_share) > 0:
            return left_out
        evidence, (total, number) = self._evidence(), self._shares.tolist()
        if evidence is None or number >= MOST_ESTIMATES or evidence.share * number < total / 4:
            return 0.0
        is_guessing = evidence.is_near_guessing(self.rules.least_right, self._num_classes)
        return 0.0 if is_guessing else evidence.share

    # State.

    def _make_room(self, largest_label: int) -> None:
        """Allocate the columns, or wider labels, where they are needed."""
        size = self._num_samples
        if not self._columns:
            self._columns = {
                "label": torch.full((size,), UNKNOWN, dtype=torch.int16),
                "margin": torch.full((size,), UNSEEN, dtype=torch.int8),
                "signs": torch.zeros(size, dtype=torch.uint8),
                "mean": torch.full((size,), UNSEEN, dtype=torch.int8),
                "visits": torch.zeros(size, dtype=torch.uint8),
            }
        if largest_label > LARGEST_SMALL:
            self._columns["label"] = self._columns["label"].to(torch.int32)

    def state_dict(self) -> dict[str, Any]:
        """The table's columns, none if there are none yet, and its counters."""
        return {
            **{name: column.clone() for name, column in self._columns.items()},
            "shares": self._shares.clone(),
            "num_merges": self._num_merges,
            "num_classes": self._num_classes,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned.

        Raises:
            CheckpointError: a tensor of another shape or dtype, or values that cannot be.
        """
        shares = require_tensor(state, "shares", shape=(2,), dtype=torch.float64)
        if not shares.isfinite().all():
            raise CheckpointError("the sum of estimates is not finite.")
        columns: dict[str, Tensor] = {}
        if "label" in state:
            self._columns = {}
            self._make_room(LARGEST_LABEL if state["label"].dtype == torch.int32 else 0)
            columns = {
                name: require_tensor(state, name, shape=tuple(own.shape), dtype=own.dtype)
                for name, own in self._columns.items()
            }
            if (lowest := int(columns["label"].min())) < UNKNOWN:
                raise CheckpointError(f"a label is {lowest}; expected {UNKNOWN} or more.")
        self._columns, self._shares = columns, shares
        self._num_merges = int(state["num_merges"])
        self._num_classes = int(state["num_classes"])
        self._left_out = None
        self._count_signs()


def lowest_of_each(margin: Tensor, classes: Classes, share: float, *, tie_seed: int = 0) -> Tensor:
    """Bool `[N]`: in each class the `share` (rounded down) of lowest margin; equal ones are drawn.

    Args:
        margin: int8 `[N]`, of each sample's label; `UNSEEN` ones are never marked.
        classes: of all samples.
        share: of a class's samples, in [0, 1].
        tie_seed: seed of the draws.
    """
    seen = torch.from_numpy(margin.numpy() != UNSEEN)
    quota = (share * classes.sizes(seen)[0]).long()
    lowest_first = torch.from_numpy(~margin.numpy())  # -1 - margin
    return highest_of_each(lowest_first, quota, tie_seed=tie_seed, group=classes.number, among=seen)


def _only(among: NDArray[np.bool_], *columns: NDArray[Any]) -> Sequence[NDArray[Any]]:
    """The rows of columns that are marked; the columns themselves where all rows are."""
    return columns if among.all() else [column[among] for column in columns]


def _mixed(
    before: NDArray[np.int8],
    now: NDArray[np.int8],
    memory: NDArray[np.floating],
    at_random: NDArray[np.uint32],
) -> NDArray[np.int8]:
    """`memory * before + (1 - memory) * now`, rounded up as often as it lies above the lower."""
    mixed = now + memory * (before.astype(np.float32) - now)
    return np.floor(mixed + (at_random >> 16) / np.float32(1 << 16)).astype(np.int8)
