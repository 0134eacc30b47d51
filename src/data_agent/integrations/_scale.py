"""The factor by which a Trainer made its loss of the terms of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from data_agent.losses import SampleLosses

RECHECK = 100  # batches between two comparisons that wait for the host, once it is known


class LossScale:
    """The factor between the sum of a batch's terms and the loss that a trainer made of them.

    Transformers divides either by the number of terms of this batch or by that of all batches of a
    step (`num_items_in_batch`), and its models do not say which: it is found by comparison. The
    comparison is also the proof that our terms are those of the trainer's loss. It is made on each
    of the first batches until one of them can tell, on each 100th later on, and always where
    samples are weighed; it waits for the host.

    Args:
        accumulation: batches of a step.
    """

    def __init__(self, accumulation: int) -> None:
        self._accumulation = accumulation
        self._found: int | None = None
        self._has_told = False
        self._num_batches = 0

    def find(
        self, loss: Tensor, expected: list[Tensor], samples: SampleLosses, *, always: bool
    ) -> int | None:
        """Which of `expected` is the loss; None if none of them is.

        Args:
            loss: a scalar, the trainer's.
            expected: scalars, what it is by each of the factors that there may be.
            samples: the batch's terms.
            always: compare on this batch, whatever was found before.
        """
        number, self._num_batches = self._num_batches, self._num_batches + 1
        is_open = number < RECHECK and not self._has_told
        if not (always or is_open or number % RECHECK == 0):
            return self._found or 0
        if not (torch.isfinite(loss) and torch.isfinite(expected[0])):
            return self._found or 0  # the selector refuses such a batch
        candidates = range(len(expected)) if self._found is None else [self._found]
        fitting = [i for i in candidates if is_close(expected[i], loss)]
        if not fitting:
            return None
        if self._accumulation == 1 or len(fitting) < len(expected):
            self._found = fitting[0]
        if self._found is not None and not self._has_told:
            self._has_told = tells(samples, _tolerance(loss))
        return fitting[0]


def tells(samples: SampleLosses, tolerance: float = 1e-4) -> bool:
    """Whether another objective would show in this batch's mean loss.

    It need not where all samples have one loss (a new head that is zero) or one class, whose
    weight then cancels. Waits for the host.
    """
    counts = samples.counts > 0
    losses = samples.losses.detach()[counts]
    if len(losses) < 2 or losses.max() - losses.min() <= 10 * tolerance * losses.abs().max():
        return False
    labels = samples.labels
    if labels is None:
        return True
    labels = labels.to(counts.device)[counts]
    return bool(labels.min() != labels.max())


def auxiliary_loss(outputs: Any, coefficient: float) -> Tensor | float:
    """What a mixture of experts adds to its loss to balance its router."""
    value = outputs.get("aux_loss") if isinstance(outputs, Mapping) else None
    return 0.0 if value is None else coefficient * value.detach()


def is_close(sum_of_terms: Tensor, loss: Tensor) -> bool:
    """Equal up to the order of summation, or up to rounding where the loss is in half precision."""
    tolerance = _tolerance(loss)
    return bool(torch.isclose(sum_of_terms.float(), loss.float(), rtol=tolerance, atol=1e-6))


def _tolerance(loss: Tensor) -> float:
    return 1e-4 if loss.dtype in (torch.float32, torch.float64) else 2e-2
