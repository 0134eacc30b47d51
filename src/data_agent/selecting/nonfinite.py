"""NaN and infinite values: told apart without waiting for an accelerator, and kept out of state."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from data_agent.errors import InputError
from data_agent.selecting.feedback import Feedback

OnNonfinite = Literal["raise", "skip"]
FEATURE_LIMIT = 1e15  # beyond it squares overflow, and a running variance would stay infinite


def nonfinite_error(index: Tensor) -> InputError:
    """The error that names the samples `index` whose values are NaN or infinite."""
    shown = ", ".join(str(int(i)) for i in index[:8]) + (", ..." if len(index) > 8 else "")
    return InputError(
        f"non-finite losses, logits or features came for {len(index)} sample(s): {shown}. They "
        "were kept out of the agent's state. Look at these samples and at the learning rate (and "
        "hand over logits without classes that are masked by -inf); "
        'on_nonfinite="skip" leaves such rows out and counts them, but a NaN inside the model '
        "still reaches its gradients."
    )


def finite_rows(feedback: Feedback) -> Tensor:
    """Bool `[B]`: the samples all of whose values are finite."""
    valid = torch.isfinite(feedback.losses)
    if feedback.logits is not None:
        valid = valid & torch.isfinite(feedback.logits).all(1)
    if feedback.features is not None:  # the comparison is false for NaN
        valid = valid & (feedback.features.abs() <= FEATURE_LIMIT).all(1)
    for values in (feedback.uncertainty, *feedback.signals.values()):
        if values is not None:
            valid = valid & torch.isfinite(values)
    return valid


def without_nonfinite(feedback: Feedback, on_nonfinite: OnNonfinite) -> Feedback:
    """The feedback with the means of valid rows in the place of others, and `valid` to tell which.

    On the host nothing changes where all values are finite; elsewhere a look would wait for the
    accelerator, so stand-ins and `valid` are always computed and read at the next policy update.
    Means as stand-ins keep the batch's statistics what they are without these rows.

    Raises:
        InputError: on the host, a value is not finite and `on_nonfinite` is "raise".
    """
    valid = finite_rows(feedback)
    if valid.device.type == "cpu":
        if valid.all():
            return feedback
        if on_nonfinite == "raise":
            raise nonfinite_error(feedback.index.cpu()[~valid])
    return replace(
        feedback,
        losses=_mean_where_not(valid, feedback.losses),
        logits=_or_none(valid, feedback.logits),
        features=_or_none(valid, feedback.features),
        uncertainty=_or_none(valid, feedback.uncertainty),
        signals={name: _mean_where_not(valid, v) for name, v in feedback.signals.items()},
        valid=valid,
    )


def _mean_where_not(valid: Tensor, values: Tensor) -> Tensor:
    """`values` `[B, ...]` with the mean of the valid rows in the place of the others."""
    rows = valid.view(-1, *[1] * (values.ndim - 1))
    total = torch.where(rows, values, 0).sum(0, dtype=torch.float64)
    mean = total / valid.sum().clamp_min(1)
    return torch.where(rows, values, mean.to(values.dtype))


def _or_none(valid: Tensor, values: Tensor | None) -> Tensor | None:
    return None if values is None else _mean_where_not(valid, values)
