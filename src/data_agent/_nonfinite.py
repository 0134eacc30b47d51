"""NaN and infinite values: told apart without waiting for an accelerator, and kept out of state."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from data_agent._errors import InputError
from data_agent._messages import Feedback

OnNonfinite = Literal["raise", "skip"]


def nonfinite_error(index: Tensor) -> InputError:
    """The error that names the samples `index` whose values are NaN or infinite."""
    shown = ", ".join(str(int(i)) for i in index[:8]) + (", ..." if len(index) > 8 else "")
    return InputError(
        f"non-finite losses, logits or features came for {len(index)} sample(s): {shown}. They "
        "were kept out of the agent's state. Look at these samples and at the learning rate; "
        'on_nonfinite="skip" leaves such rows out and counts them, but a NaN inside the model '
        "still reaches its gradients."
    )


def finite_rows(feedback: Feedback) -> Tensor:
    """Bool `[B]`: the samples all of whose values are finite."""
    valid = torch.isfinite(feedback.losses)
    for rows in (feedback.logits, feedback.features):
        if rows is not None:
            valid = valid & torch.isfinite(rows).all(1)
    for values in (feedback.uncertainty, *feedback.signals.values()):
        if values is not None:
            valid = valid & torch.isfinite(values)
    return valid


def without_nonfinite(feedback: Feedback, on_nonfinite: OnNonfinite) -> Feedback:
    """The feedback with stand-ins for non-finite values, and `valid` to tell which.

    On the host nothing changes where all values are finite; elsewhere a look would wait for the
    accelerator, so stand-ins and `valid` are always computed and read at the next policy update.

    Raises:
        InputError: on the host, a value is not finite and `on_nonfinite` is "raise".
    """
    valid = finite_rows(feedback)
    if valid.device.type == "cpu":
        if valid.all():
            return feedback
        if on_nonfinite == "raise":
            raise nonfinite_error(feedback.index.cpu()[~valid])
    losses = torch.where(valid, feedback.losses.float(), torch.nan)
    stand_in = torch.nan_to_num(losses.nanmedian()).to(feedback.losses.dtype)
    row = valid.unsqueeze(1)
    return replace(
        feedback,
        losses=torch.where(valid, feedback.losses, stand_in),
        logits=_or_zero(row, feedback.logits),
        features=_or_zero(row, feedback.features),
        uncertainty=_or_zero(valid, feedback.uncertainty),
        signals={name: torch.where(valid, v, 0) for name, v in feedback.signals.items()},
        valid=valid,
    )


def _or_zero(valid: Tensor, values: Tensor | None) -> Tensor | None:
    return None if values is None else torch.where(valid, values, 0)
