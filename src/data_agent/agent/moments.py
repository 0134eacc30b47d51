"""Running mean and variance, by merging batches (Chan, Golub and LeVeque 1979)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from data_agent.errors import CheckpointError
from data_agent.runtime.distributed import gather_rows, parts_to_resume
from data_agent.runtime.state import require_tensor

EPS = 1e-12  # of the mean square: below it a coordinate varies by rounding only


class Moments:
    """Count, mean and sum of squared deviations, per coordinate.

    What is added stays pending until `settle` merges the pending sums of all ranks, so ranks that
    see different rows agree on the mean and variance in use. Beyond `window` rows the past fades:
    features drift while a model trains.

    Args:
        width: D, number of coordinates.
        window: rows after which older ones fade, >= 1.
        device: where the rows come from.
        dtype: float32 or float64.
    """

    def __init__(
        self, width: int, *, window: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        self._window = window
        self._settled = torch.zeros(3, width, device=device, dtype=dtype)
        self._pending = torch.zeros(3, width, device=device, dtype=dtype)
        self._is_settled = False

    def add(self, rows: Tensor) -> None:
        """Take in float `[B, D]`; after the first `settle` it counts from the next one on."""
        self._pending = merged(self._pending, batch_moments(rows))

    def settle(self) -> None:
        """Merge what all ranks added since the last call; a collective call on several ranks."""
        (parts,) = gather_rows(self._pending.unsqueeze(0))
        for part in parts:
            self._settled = merged(self._settled, part)
        self._settled = faded(self._settled, self._window)
        self._pending = torch.zeros_like(self._pending)
        self._is_settled = True

    def standardised(self, rows: Tensor) -> Tensor:
        """(rows - mean) / std, `[B, D]`; a coordinate that never varied gives zero."""
        return standardised(rows, self._settled if self._is_settled else self._pending)

    def to(self, device: torch.device) -> None:
        """Move to `device`."""
        self._settled, self._pending = self._settled.to(device), self._pending.to(device)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and a flag; pending sums of all ranks, `[ranks, 3, D]`. A collective call."""
        (pending,) = gather_rows(self._pending.unsqueeze(0))
        return {
            "settled": self._settled.cpu().clone(),
            "pending": pending.cpu().clone(),
            "is_settled": self._is_settled,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over this rank's part of what `state_dict` returned."""
        if not isinstance(state.get("is_settled"), bool):
            raise CheckpointError("the running moments have no flag 'is_settled'.")
        shape, dtype = tuple(self._settled.shape), self._settled.dtype
        settled = require_tensor(state, "settled", shape=shape, dtype=dtype)
        num_parts = len(state["pending"])
        parts = require_tensor(state, "pending", shape=(num_parts, *shape), dtype=dtype)
        pending = torch.zeros_like(settled)
        for part in parts_to_resume(num_parts):
            pending = merged(pending, parts[part])
        device = self._settled.device
        self._settled, self._pending = settled.to(device), pending.to(device)
        self._is_settled = state["is_settled"]


def batch_moments(rows: Tensor) -> Tensor:
    """Moments `[3, D]` (count, mean, sum of squared deviations) of float `[B, D]`."""
    variance, mean = torch.var_mean(rows, 0, correction=0)
    return torch.stack([torch.full_like(mean, len(rows)), mean, variance * len(rows)])


def faded(moments: Tensor, window: int) -> Tensor:
    """The same mean and variance, standing for at most `window` rows."""
    fade = (window / moments[0].clamp_min(1)).clamp(max=1)
    return torch.stack([moments[0] * fade, moments[1], moments[2] * fade])


def standardised(rows: Tensor, moments: Tensor) -> Tensor:
    """(rows - mean) / std, `[B, D]`; a coordinate that never varied gives zero."""
    count, mean, squares = moments.unbind(0)
    variance = squares / count.clamp_min(1)
    scale = torch.where(variance > EPS * mean.square(), variance.rsqrt(), 0)
    return (rows - mean) * scale


def merged(first: Tensor, second: Tensor) -> Tensor:
    """Moments of two sets of rows together.

    With n = n1 + n2 and d = m2 - m1: mean = m1 + d n2 / n, squares = S1 + S2 + d^2 n1 n2 / n.

    Args:
        first: `[3, D]`: count, mean, sum of squared deviations.
        second: the same.
    """
    count = first[0] + second[0]
    share = second[0] / count.clamp_min(1)
    delta = second[1] - first[1]
    mean = first[1] + delta * share
    squares = first[2] + second[2] + delta.square() * first[0] * share
    return torch.stack([count, mean, squares])
