"""What the policy learns from at its next update: a bounded, uniform sub-sample of the rows."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from data_agent.errors import CheckpointError
from data_agent.runtime.distributed import gather_rows, rows_to_resume
from data_agent.runtime.state import require_tensor


class RolloutRows(NamedTuple):
    """Rows of a rollout, in the order of their keys.

    Args:
        features: `[R, D]`, as they came.
        utility: `[R]` in [0, 1].
        step: int64 `[R]` on the host, the batch each row came from.
    """

    features: Tensor
    utility: Tensor
    step: Tensor


class Rollout:
    """Keeps the `max_rows` rows with the smallest keys of all that were added since `take`.

    Keys and steps are on the host, so which rows stay is decided without a look at the device.

    Args:
        max_rows: the bound.
        width: D, width of the features.
        dtype: of features and utilities.
        device: where the rows come from.
    """

    def __init__(
        self, max_rows: int, width: int, *, dtype: torch.dtype, device: torch.device
    ) -> None:
        self._max_rows = max_rows
        self._labels = torch.empty(0, 2, dtype=torch.int64)  # key, step
        self._values = torch.empty(0, width + 1, dtype=dtype, device=device)  # features, utility

    def add(self, labels: Tensor, features: Tensor, utility: Tensor) -> None:
        """Add rows; which ones stay is decided by their keys alone.

        Args:
            labels: int64 `[M, 2]` on the host, each row's key and step.
            features: `[M, D]`.
            utility: `[M]`.
        """
        num_before, device = len(self._labels), features.device
        self._labels = torch.cat([self._labels, labels])
        stays = self._smallest().sort().values
        self._labels = self._labels[stays]
        new = (stays[stays >= num_before] - num_before).to(device, non_blocking=True)
        values = torch.cat([features[new], utility[new].unsqueeze(1)], 1)
        if num_before:
            old = stays[stays < num_before].to(device, non_blocking=True)
            values = torch.cat([self._values[old], values])
        self._values = values

    def take(self) -> RolloutRows | None:
        """Hand over the rows of all ranks, in one order on every rank, and start afresh.

        A collective call on several ranks. None if there are fewer than two rows to learn from.
        """
        self._labels, self._values = gather_rows(self._labels, self._values)
        order = self._smallest()
        values = self._values[order.to(self._values.device, non_blocking=True)]
        step = self._labels[order, 1]
        self._labels, self._values = self._labels[:0], self._values[:0]
        return RolloutRows(values[:, :-1], values[:, -1], step) if len(step) > 1 else None

    def state_dict(self) -> dict[str, Any]:
        """The rows of all ranks, in rank order, on the host. A collective call."""
        (sizes,) = gather_rows(torch.tensor([len(self._labels)]))
        labels, values = gather_rows(self._labels, self._values)
        return {
            "sizes": sizes.tolist(),
            "labels": labels.clone(),
            "values": values.cpu().clone(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over this rank's part of what `state_dict` returned.

        Raises:
            CheckpointError: rows of another width or dtype, or without labels.
        """
        sizes, own = state["sizes"], self._values
        shape = (sum(sizes), own.shape[1])
        values = require_tensor(state, "values", shape=shape, dtype=own.dtype)
        labels = require_tensor(state, "labels", shape=(shape[0], 2), dtype=torch.int64)
        if not values.isfinite().all():
            raise CheckpointError("the rollout holds values that are not finite.")
        self._labels = rows_to_resume(labels, sizes)
        self._values = rows_to_resume(values, sizes).to(own.device)

    def to(self, device: torch.device) -> None:
        """Move to `device`."""
        self._values = self._values.to(device)

    def _smallest(self) -> Tensor:
        """int64: which rows have the smallest keys, in the order of these."""
        order = np.argsort(self._labels[:, 0].numpy(), kind="stable")
        return torch.from_numpy(order[: self._max_rows])
