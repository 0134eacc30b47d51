"""Rows that the user trusts: which they are, checked where they are handed over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from data_agent.budget.schedule import SelectionSchedule
from data_agent.errors import InputError

MOST_OF_AN_EPOCH = 0.5  # trusted rows leave the other half of each epoch to the method
_MASK = (
    "the positions of at least one row in the dataset, whole numbers [T] (of a mask: "
    "torch.as_tensor(mask).nonzero().flatten())."
)


def trusted_mask(rows: Tensor | Sequence[int], num_samples: int) -> Tensor:
    """Bool `[N]` of distinct positions, int `[T]`.

    Raises:
        InputError: none, not whole numbers, outside of the dataset, or repeated.
    """
    index = _positions(rows)
    if int(index.min()) < 0 or int(index.max()) >= num_samples:
        wrong = index[(index < 0) | (index >= num_samples)]
        raise InputError(
            f"trusted holds {int(wrong[0])}, but the dataset has {num_samples} samples. Append "
            "trusted rows to the training data (data_agent.trusted.append_trusted) and count them "
            "in num_samples."
        )
    mask = torch.zeros(num_samples, dtype=torch.bool)
    mask[index] = True
    if int(mask.sum()) == len(index):
        return mask
    if len(index) == num_samples and int(index.max()) <= 1:
        raise InputError(
            f"trusted came as {num_samples} zeros and ones, a mask of the dataset; expected {_MASK}"
        )
    raise InputError(
        f"trusted names {len(index) - int(mask.sum())} of its {len(index)} rows twice; name "
        "each once (torch.unique)."
    )


def _positions(rows: Any) -> Tensor:
    """int64 `[T]` on the host, T > 0."""
    is_listed = isinstance(rows, Sequence) and not isinstance(rows, str | bytes)
    try:
        if not is_listed and not hasattr(rows, "__array__"):  # as tensors, arrays and columns have
            raise TypeError("no list")
        index = torch.as_tensor(rows).cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"trusted is a {type(rows).__name__}, which does not hold positions of rows in the "
            "dataset; expected whole numbers [T], as a list, a range, an array or a tensor. A data "
            "set of trusted rows is appended first: train_set, rows = append_trusted(train_set, "
            "trusted_set), of data_agent.trusted."
        ) from error
    if index.ndim != 1 or index.is_floating_point() or index.dtype == torch.bool or not len(index):
        raise InputError(
            f"trusted came as {index.dtype} of shape {list(index.shape)}; expected {_MASK}"
        )
    return index.long()


def check_room(num_trusted: int, schedule: SelectionSchedule) -> None:
    """Trusted rows must leave room in an epoch, whose length they do not change.

    Raises:
        InputError: they are more than half of an epoch, or more than its uniform part leaves, or
            its length is not known beforehand.
    """
    if schedule.kind == "floating":
        raise InputError(
            "a floating schedule has no room of its own for trusted rows. Take a method with an "
            "exact budget (infobatch in place of infobatch-published), or leave trusted rows out."
        )
    if num_trusted > MOST_OF_AN_EPOCH * schedule.num_kept:
        raise InputError(
            f"{num_trusted} rows are trusted, more than half of an epoch of {schedule.num_kept} "
            f"(keep ratio {schedule.keep_ratio:g} of {schedule.num_samples}). Trust fewer (a few "
            "hundred are enough), or take a higher keep_ratio."
        )
    if num_trusted + schedule.num_explored > schedule.num_kept:
        raise InputError(
            f"{num_trusted} rows are trusted and {schedule.num_explored} are drawn uniformly "
            f"(explore {schedule.explore:g}), together more than an epoch of {schedule.num_kept}. "
            "Take a lower explore, trust fewer rows, or take a higher keep_ratio."
        )
