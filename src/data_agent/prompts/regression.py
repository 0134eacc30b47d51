"""Ridge regression of utility and success on features: what a prompt's looks say of it.

Hoerl and Kennard 1970, "Ridge Regression: Biased Estimation for Nonorthogonal Problems".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from data_agent.errors import CheckpointError, InputError
from data_agent.runtime.random import projection
from data_agent.runtime.state import require_tensor

FEWEST = 24  # rows below which nothing is predicted
CLIP = 5.0  # deviations
NUM_TARGETS = 2
PENALTY = 1.0  # where a row's squares add up to one


class FeatureReader:
    """Features as they are kept: wide ones reduced by a fixed random projection.

    Args:
        max_features: wider ones are reduced to so many.
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
        """D, how many are kept."""
        return min(self.num_features or 0, self._max_features)

    def read(self, features: Tensor | None, size: int) -> Tensor:
        """float32 `[M, D]` of features `[M, F]` of M = `size` candidates; `[M, 0]` of None.

        Raises:
            InputError: features of another width than before.
        """
        features = torch.empty(size, 0) if features is None else features
        if self.num_features is None:
            self.expect(features.shape[1])
        if features.shape[1] != self.num_features:
            raise InputError(
                f"features came {features.shape[1]} wide; so far they were {self.num_features} "
                "wide (0: none came). Hand over the same kind throughout the run."
            )
        return features if self._projection is None else features @ self._projection

    def expect(self, num_features: int | None) -> None:
        """Expect features so wide; None for not knowing yet."""
        self.num_features, self._projection = num_features, None
        if num_features is not None and num_features > self._max_features:
            self._projection = projection(num_features, self._max_features, self._seed)


class GroupRegression:
    """The newest groups, and a regression on them that is solved whenever it is asked.

    Utility is highest at middling success, so a line in the features may miss it where they show
    how hard a prompt is; success is predicted beside it.

    Args:
        num_rows: so many are kept.
    """

    def __init__(self, num_rows: int) -> None:
        self._num_rows = num_rows
        self._rows = torch.empty(0, NUM_TARGETS)  # utility, success, features

    def add(self, features: Tensor, utility: Tensor, success: Tensor) -> None:
        """Add features float32 `[B, D]`, utilities and successes `[B]`."""
        rows = torch.cat([torch.stack([utility, success], 1), features], 1)
        kept = self._rows if len(self._rows) else rows[:0]
        self._rows = torch.cat([kept, rows])[-self._num_rows :]

    def predict(self, features: Tensor) -> Tensor:
        """Utility and success, float32 `[M, 2]`, of features `[M, D]`.

        0 of all while groups are few, or at D = 0.
        """
        if len(self._rows) < FEWEST or not features.shape[1]:
            return torch.zeros(len(features), NUM_TARGETS)
        target, seen = self._rows[:, :NUM_TARGETS].double(), self._rows[:, NUM_TARGETS:]
        mean, scale = seen.mean(0), seen.std(0).clamp_min(1e-6)
        rows, asked = (scaled((part - mean) / scale) for part in (seen, features))
        weights = ridge(rows, target - target.mean(0), PENALTY)
        return (asked @ weights + target.mean(0)).float()

    def state_dict(self) -> dict[str, Any]:
        """The rows."""
        return {"rows": self._rows.clone()}

    def load_state_dict(self, state: Mapping[str, Any], width: int) -> None:
        """Take over what `state_dict` returned, of features `width` wide.

        Raises:
            CheckpointError: rows of another width, or not finite.
        """
        size = min(len(state["rows"]), self._num_rows)
        shape = (size, NUM_TARGETS + width if size else NUM_TARGETS)
        rows = require_tensor(state, "rows", shape=shape, dtype=torch.float32)
        if not rows.isfinite().all():
            raise CheckpointError("the rows of the regression are not finite.")
        self._rows = rows


def ridge(rows: Tensor, target: Tensor, penalty: float) -> Tensor:
    """Weights W `[D, T]` that minimise |rows W - target|^2 + penalty |W|^2.

    (X'X + penalty I) W = X'Y, with X float64 `[R, D]` and Y `[R, T]`.
    """
    gram = rows.T @ rows + penalty * torch.eye(rows.shape[1], dtype=rows.dtype)
    return torch.linalg.solve(gram, rows.T @ target)


def scaled(rows: Tensor) -> Tensor:
    """float64 `[R, D]` of standardised rows: clipped, and so that squares add up to about one."""
    return rows.double().clamp(-CLIP, CLIP) / rows.shape[1] ** 0.5
