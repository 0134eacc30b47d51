"""Rows that the user trusts: which they are, checked where they are handed over."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from data_agent.budget.schedule import SelectionSchedule
from data_agent.errors import InputError

MOST_OF_AN_EPOCH = 0.5  # trusted rows leave the other half of each epoch to the method


def trusted_mask(rows: Tensor | Sequence[int], num_samples: int) -> Tensor:
    """Bool `[N]` of distinct positions, int `[T]`.

    Raises:
        InputError: none, not whole numbers, outside of the dataset, or repeated.
    """
    index = torch.as_tensor(rows).cpu()
    if index.ndim != 1 or index.is_floating_point() or index.dtype == torch.bool or not len(index):
        raise InputError(
            f"trusted came as {index.dtype} of shape {list(index.shape)}; expected the positions "
            "of at least one row in the dataset, whole numbers [T] (of a mask: mask.nonzero()"
            ".flatten())."
        )
    index = index.long()
    if int(index.min()) < 0 or int(index.max()) >= num_samples:
        wrong = index[(index < 0) | (index >= num_samples)]
        raise InputError(
            f"trusted holds {int(wrong[0])}, but the dataset has {num_samples} samples. Append "
            "trusted rows to the training data (torch.utils.data.ConcatDataset([data, rows])) and "
            "count them in num_samples."
        )
    mask = torch.zeros(num_samples, dtype=torch.bool)
    mask[index] = True
    if int(mask.sum()) != len(index):
        raise InputError(
            f"trusted names {len(index) - int(mask.sum())} of its {len(index)} rows twice; name "
            "each once (torch.unique)."
        )
    return mask


def check_room(num_trusted: int, schedule: SelectionSchedule) -> None:
    """Trusted rows must leave room in an epoch, whose length they do not change.

    Raises:
        InputError: they are more than half of an epoch, or its length is not known beforehand.
    """
    if schedule.kind == "floating":
        raise InputError(
            "a floating schedule has no room of its own for trusted rows. Use the method's exact "
            "budget, or leave trusted out."
        )
    if num_trusted > MOST_OF_AN_EPOCH * schedule.num_kept:
        raise InputError(
            f"{num_trusted} rows are trusted, more than half of an epoch of {schedule.num_kept} "
            f"(keep ratio {schedule.keep_ratio:g} of {schedule.num_samples}). Trust fewer (a few "
            "hundred are enough), or take a higher keep_ratio."
        )
