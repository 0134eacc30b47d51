"""The factor by which a Trainer made its loss of the terms of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class LossScale:
    """The factor between the sum of a batch's terms and the loss that a trainer made of them.

    Transformers divides either by the number of terms of this batch or by that of all batches of a
    step (`num_items_in_batch`), and its models do not say which: it is found on the first batches.

    Args:
        accumulation: batches of a step.
    """

    def __init__(self, accumulation: int) -> None:
        self._accumulation = accumulation
        self._found: int | None = None

    def find(self, loss: Tensor, total: Tensor, scales: list[Tensor]) -> Tensor | None:
        """The one of `scales` that makes `loss` of `total`, or None. All are scalars.

        Waits for the host until it is known which one it is.
        """
        if self._found is not None:
            return scales[self._found]
        if not (torch.isfinite(loss) and torch.isfinite(total)):
            return scales[0]  # nothing can be told from it, and the selector refuses such a batch
        fitting = [i for i, scale in enumerate(scales) if is_close(total * scale, loss)]
        if not fitting:
            return None
        if self._accumulation == 1 or len(fitting) < len(scales):
            self._found = fitting[0]
        return scales[fitting[0]]


def auxiliary_loss(outputs: Any, coefficient: float) -> Tensor | float:
    """What a mixture of experts adds to its loss to balance its router."""
    value = outputs.get("aux_loss") if isinstance(outputs, Mapping) else None
    return 0.0 if value is None else coefficient * value.detach()


def is_close(sum_of_terms: Tensor, loss: Tensor) -> bool:
    """Equal up to the order of summation, or up to rounding where the loss is in half precision."""
    tolerance = 1e-4 if loss.dtype == torch.float32 else 2e-2
    return bool(torch.isclose(sum_of_terms.float(), loss.float(), rtol=tolerance, atol=1e-6))
