"""Checks of what a method is given before training, one value a sample."""

from __future__ import annotations

import torch
from torch import Tensor

from data_agent.errors import InputError


def checked_scores(values: object, num_samples: int) -> Tensor:
    """float32 `[N]` on the CPU; infinity is a score. InputError: another shape, dtype, or NaN."""
    values = _checked("scores", values, num_samples, example="float")
    if not values.is_floating_point():
        raise InputError(
            f"scores came as {values.dtype}; expected a floating-point dtype, higher for samples "
            "to keep. Positions in a ranking are scores too: (-rank).float()."
        )
    if len(bad := values.isnan().nonzero()) > 0:
        raise InputError(
            f"scores hold {len(bad)} NaN, the first at sample {int(bad[0])}. Did the model that "
            "scored them diverge?"
        )
    return values.float()


def checked_classes(name: str, values: object, num_samples: int) -> Tensor:
    """int64 `[N]`, 0 or more, on the CPU. InputError: another shape, dtype or range."""
    values = _checked(name, values, num_samples, example="int64")
    if values.dtype != torch.int64:
        raise InputError(
            f"{name} came as {values.dtype}; expected torch.int64, one class a sample "
            f"(integers of another width: {name}.long())."
        )
    if int(values.min()) < 0:
        raise InputError(
            f"{name} hold {int(values.min())}; expected numbers from 0 on. Give samples without "
            "one a number of their own, or leave them out of the dataset."
        )
    return values


def _checked(name: str, values: object, num_samples: int, *, example: str) -> Tensor:
    if not isinstance(values, Tensor):
        raise InputError(
            f"{name} must be a tensor, {example} [N], got {type(values).__name__}. Use "
            "torch.tensor(...), in the order of the dataset."
        )
    if tuple(values.shape) != (num_samples,):
        raise InputError(
            f"{name} came with shape {list(values.shape)}; expected [{num_samples}], one value for "
            "each sample of the dataset."
        )
    return values.detach().cpu()
