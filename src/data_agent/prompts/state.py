"""What a learner sees of candidates, and the rows that it learns from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from data_agent.errors import CheckpointError, InputError
from data_agent.prompts.history import READINGS, History
from data_agent.runtime.random import projection
from data_agent.runtime.state import require_tensor


class States:
    """Puts a prompt's history and its features, reduced if they are wide, into one row.

    Args:
        max_features: wider features are reduced by a fixed random projection.
        seed: of the projection.
    """

    def __init__(self, max_features: int, seed: int) -> None:
        self._max_features = max_features
        self._seed = seed
        self._projection: Tensor | None = None
        self.num_features: int | None = None
        """Of each candidate, as they come; 0 where none come, None before the first."""

    @property
    def width(self) -> int:
        """D, width of the rows."""
        return len(READINGS) + min(self.num_features or 0, self._max_features)

    def of(self, index: Tensor, features: Tensor | None, history: History, step: int) -> Tensor:
        """float32 `[M, D]` of candidates `index` `[M]` with `features` `[M, F]` or None.

        Raises:
            InputError: features of another width than before.
        """
        num_features = 0 if features is None else features.shape[1]
        if self.num_features is None:
            self.fit(num_features)
        if num_features != self.num_features:
            raise InputError(
                f"features came {num_features} wide; so far they were {self.num_features} wide (0: "
                "none came). Hand over the same kind throughout the run."
            )
        readings = history.readings(index, step)
        if features is None:
            return readings
        reduced = features if self._projection is None else features @ self._projection
        return torch.cat([readings, reduced], 1)

    def fit(self, num_features: int | None) -> None:
        """Expect features so wide; None for not knowing yet."""
        self.num_features, self._projection = num_features, None
        if num_features is not None and num_features > self._max_features:
            self._projection = projection(num_features, self._max_features, self._seed)


class Replay:
    """The newest rows: each a state, whether it was drawn uniformly, and the utility that came.

    Args:
        num_rows: so many are kept.
    """

    def __init__(self, num_rows: int) -> None:
        self._num_rows = num_rows
        self._rows = torch.empty(0, 2)

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self._rows)

    def add(self, states: Tensor, utility: Tensor, is_uniform: Tensor) -> None:
        """Add states float32 `[B, D]`, utilities `[B]`, and bool `[B]`."""
        rows = torch.cat([torch.stack([utility, is_uniform.float()], 1), states], 1)
        kept = self._rows if len(self._rows) else rows[:0]
        self._rows = torch.cat([kept, rows])[-self._num_rows :]

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

    def load_state_dict(self, state: Mapping[str, Any], width: int) -> None:
        """Take over what `state_dict` returned, of states `width` wide.

        Raises:
            CheckpointError: rows of another width, or not finite.
        """
        size = min(len(state["rows"]), self._num_rows)
        columns = 2 + width if size else state["rows"].shape[1]
        rows = require_tensor(state, "rows", shape=(size, columns), dtype=torch.float32)
        if not rows.isfinite().all():
            raise CheckpointError("the rows that the agent learns from are not finite.")
        self._rows = rows
