"""Choosing inside a Trainer's batch: some of its rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from torch import Tensor

from data_agent.errors import InputError


def rows_of(inputs: Mapping[str, Any], keep: Tensor) -> dict[str, Any]:
    """The rows of a batch that bool `[P]` marks.

    Args:
        inputs: tensors `[P, ...]`; other values and scalars stay as they are.
        keep: the marks, on the device of the losses.

    Raises:
        InputError: a tensor that is not one row a sample.
    """
    return {key: _rows(key, value, keep) for key, value in inputs.items()}


def _rows(key: str, value: object, keep: Tensor) -> Any:
    if isinstance(value, Mapping):
        return rows_of(cast("Mapping[str, Any]", value), keep)
    if not isinstance(value, Tensor) or value.ndim == 0:
        return value
    if len(value) != len(keep):
        raise InputError(
            f"choosing within a batch of {len(keep)} samples, but {key!r} has shape "
            f"{list(value.shape)}: its rows are not samples. Pad instead of packing them into one "
            "row, or take a method that selects epochs."
        )
    return value[keep.to(value.device)]
