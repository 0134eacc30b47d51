"""The rows that the policy learns from, again and again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from data_agent.errors import CheckpointError
from data_agent.runtime.state import require_tensor


class Replay:
    """The newest rows: each a state, whether it was drawn uniformly, and the utility that came.

    Args:
        num_rows: so many are kept.
        width: D, of the states.
    """

    def __init__(self, num_rows: int, width: int) -> None:
        self._num_rows = num_rows
        self._rows = torch.empty(0, 2 + width)

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self._rows)

    def add(self, states: Tensor, utility: Tensor, is_uniform: Tensor) -> None:
        """Add states float32 `[B, D]`, utilities `[B]`, and bool `[B]`."""
        rows = torch.cat([torch.stack([utility, is_uniform.float()], 1), states], 1)
        self._rows = torch.cat([self._rows, rows])[-self._num_rows :]

    @property
    def states(self) -> Tensor:
        """float32 `[R, D]`."""
        return self._rows[:, 2:]

    @property
    def utility(self) -> Tensor:
        """float32 `[R]`."""
        return self._rows[:, 0]

    @property
    def is_uniform(self) -> Tensor:
        """Bool `[R]`."""
        return self._rows[:, 1] > 0

    def state_dict(self) -> dict[str, Any]:
        """The rows."""
        return {"rows": self._rows.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned.

        Raises:
            CheckpointError: rows of another width, or not finite.
        """
        shape = (min(len(state["rows"]), self._num_rows), self._rows.shape[1])
        rows = require_tensor(state, "rows", shape=shape, dtype=torch.float32)
        if not rows.isfinite().all():
            raise CheckpointError("the rows that the agent learns from are not finite.")
        self._rows = rows
