"""NaN and infinite values: found by one look, named, and kept out of all that is remembered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from data_agent.errors import InputError
from data_agent.selecting.feedback import Feedback

OnNonfinite = Literal["raise", "skip"]
LIMIT = 1e15  # beyond it squares overflow, and a running variance would stay infinite


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


def without_nonfinite(feedback: Feedback) -> tuple[Feedback | None, Tensor | None]:
    """The rows all of whose values are finite (None: there are none), and which they are.

    Waits for the device once, and again only where a value is not finite.

    Returns:
        The feedback of the finite rows, and bool `[B]` on the host, which these are; None for all.
    """
    values = [feedback.losses, *feedback.signals.values()]
    for column in (feedback.logits, feedback.features, feedback.uncertainty):
        if column is not None:
            values.append(column)
    if _look_finite(values) or (valid := _finite_rows(values)).all():
        return feedback, None
    return rows_where(feedback, valid), valid


def rows_where(feedback: Feedback, valid: Tensor) -> Feedback | None:
    """The rows where `valid`, bool `[B]` on the host, holds; None where it holds nowhere."""
    if not valid.any():
        return None
    rows = valid.nonzero().squeeze(1)

    def at(values: Tensor | None) -> Tensor | None:
        return None if values is None else values[rows.to(values.device)]

    sizes = [int(part.sum()) for part in valid.split(feedback.sizes)] if feedback.sizes else []
    return replace(
        feedback,
        index=feedback.index[rows],
        losses=feedback.losses[rows.to(feedback.losses.device)],
        logits=at(feedback.logits),
        features=at(feedback.features),
        labels=at(feedback.labels),
        uncertainty=at(feedback.uncertainty),
        signals={name: v[rows.to(v.device)] for name, v in feedback.signals.items()},
        sizes=tuple(size for size in sizes if size),
    )


def _look_finite(values: Sequence[Tensor]) -> bool:
    """Whether all values are finite, by the norms of the tensors; False may be wrong."""
    wide = [torch.float64 if v.dtype == torch.float64 else torch.float32 for v in values]
    norms = [torch.linalg.vector_norm(v, dtype=d) for v, d in zip(values, wide, strict=True)]
    if values[0].device.type != "cpu":
        return bool(torch.stack(norms).amax() <= LIMIT)
    return all([float(norm) <= LIMIT for norm in norms])


def _finite_rows(values: Sequence[Tensor]) -> Tensor:
    """Bool `[B]` on the host: which rows are finite; the comparison is false for NaN."""
    rows = [(v.unsqueeze(1).flatten(1).abs() <= LIMIT).all(1).cpu() for v in values]
    return torch.stack(rows).all(0)
