"""Whether a run that was restored goes on with the same data: a look at the labels of a few."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from data_agent.errors import CheckpointError, DataAgentWarning
from data_agent.runtime import distributed
from data_agent.selecting.feedback import check_range

SIZE = 256  # samples that are looked at, over all ranks
FEWEST, SHARE = 8, 0.05  # changed labels, and of those that were compared, from which on it is said

Labels = dict[int, int]
"""Of samples, by their positions."""


class LabelSketch:
    """The labels of the first samples that came in a run, and what they are after a restore.

    A position means the same sample only as long as the data keep their order, and nothing else
    that is saved shows it. The first that come are drawn at random, like all of the warm-up. Labels
    are looked at later, so that no step waits for them; once all are known a step does nothing.

    Args:
        num_samples: N.
    """

    def __init__(self, num_samples: int) -> None:
        self._num_samples = num_samples
        self._room = min(num_samples, max(FEWEST, SIZE // distributed.world_size()))
        self._own: Labels = {}
        self._before: Labels = {}  # of all ranks, still to be compared
        self._noted: list[tuple[list[int], Tensor]] = []
        self._num_compared = self._num_changed = 0
        self._has_told = False

    def note(self, index: Tensor, labels: Tensor) -> None:
        """Take in a batch, int64 `[B]` on the host, with its labels, `[B]` on any device."""
        if not (self._before or len(self._own) < self._room):
            return
        samples, rows = index.tolist(), list[int]()
        for row, sample in enumerate(samples):
            is_new = len(self._own) < self._room and sample not in self._own
            if is_new:
                self._own[sample] = 0  # until it is looked at
            if is_new or sample in self._before:
                rows.append(row)
        if rows:
            self._noted.append(([samples[row] for row in rows], labels[torch.tensor(rows)].long()))

    def look(self) -> None:
        """Compare what came with what came before the restore; says once that it is another."""
        if not self._noted:
            return
        labels = torch.cat([labels for _, labels in self._noted]).tolist()
        samples = [sample for samples, _ in self._noted for sample in samples]
        self._noted.clear()
        for sample, label in zip(samples, labels, strict=True):
            if (before := self._before.pop(sample, None)) is not None:
                self._num_compared += 1
                self._num_changed += int(before != label)
            if sample in self._own:
                self._own[sample] = label
        is_other = self._num_changed >= max(FEWEST, SHARE * self._num_compared)
        if is_other and not self._has_told:
            self._has_told = True
            self._tell()

    def _tell(self) -> None:
        warnings.warn(
            f"since the restore {self._num_changed} of {self._num_compared} samples that were "
            "looked at came with another label than before: the dataset has another order or is "
            "another one, so that what was learned of a sample now counts for another. Give it the "
            "order that it had (file names sorted, the same filters and seeds), or build a new "
            "selector. If labels are drawn anew at each visit, ignore this.",
            DataAgentWarning,
            stacklevel=7,
        )

    def state_dict(self) -> dict[str, Any]:
        """Samples and labels that each rank knows, int64 `[n]`; a collective call."""
        self.look()
        own = torch.tensor([*self._own.items()], dtype=torch.int64).view(-1, 2)
        size, rows = distributed.gather_rows(torch.tensor([len(own)]), own)
        return {"sketch": rows, "sketch_sizes": size.tolist()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned.

        Raises:
            CheckpointError: it is damaged.
            InputError: a sample outside of the dataset.
        """
        rows, sizes = state["sketch"], state["sketch_sizes"]
        if rows.dtype != torch.int64 or rows.ndim != 2 or rows.shape[1] != 2:
            raise CheckpointError("the labels of a few samples are not int64 [n, 2].")
        check_range(rows[:, 0], self._num_samples)
        own = distributed.rows_to_resume(rows, sizes)
        self._own, self._before = _labels_of(own), _labels_of(rows)
        self._noted.clear()
        self._num_compared = self._num_changed = 0
        self._has_told = False


def _labels_of(rows: Tensor) -> Labels:
    """Of int64 `[n, 2]`."""
    return dict(zip(rows[:, 0].tolist(), rows[:, 1].tolist(), strict=True))
