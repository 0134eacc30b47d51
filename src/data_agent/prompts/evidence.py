"""Whether what was predicted came true: a window of predictions and outcomes, and a line in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from data_agent.runtime.state import require_tensor

FEWEST = 24  # rows below which nothing is believed
CLEARLY = 2.0  # t statistic from which a correlation is


class Evidence:
    """The last rows, each a mean action before its reward was known and the utility that came.

    Both are also kept centred in their batch: policy and model change from batch to batch, and what
    counts is whether prompts of one batch are told apart.

    Args:
        num_rows: so many are kept.
    """

    def __init__(self, num_rows: int) -> None:
        self._num_rows = num_rows
        self._rows = torch.empty(0, 5)  # action, utility, both centred, degrees of freedom

    def add(self, action: Tensor, utility: Tensor) -> None:
        """Add a batch: actions and utilities `[B]`, B >= 1."""
        rows = torch.stack([action.float(), utility.float()], 1)
        freedom = rows.new_full((len(rows), 1), 1 - 1 / len(rows))  # a batch's mean takes one
        rows = torch.cat([rows, rows - rows.mean(0), freedom], 1)
        self._rows = torch.cat([self._rows, rows])[-self._num_rows :]

    def correlation(self) -> float:
        """Of centred actions and utilities, in [-1, 1]; 0 where one of them does not vary."""
        return correlation(self._rows[:, 2], self._rows[:, 3])

    def is_clear(self) -> bool:
        """Whether higher actions clearly went with higher utilities."""
        freedom = float(self._rows[:, 4].sum()) - 1
        if len(self._rows) < FEWEST or freedom <= 0:
            return False
        return t_statistic(self.correlation(), freedom) > CLEARLY

    def predict(self, action: Tensor) -> Tensor:
        """Utility `[B]` of actions `[B]`, on a line through the rows; flat where none is clear."""
        mean_action, mean_utility = self._rows[:, :2].mean(0)
        if not self.is_clear():
            return mean_utility.expand(len(action))
        centred = self._rows[:, 2]
        slope = (centred * self._rows[:, 3]).sum() / centred.square().sum()
        return (mean_utility + slope * (action - mean_action)).clamp(0, 1)

    def state_dict(self) -> dict[str, Any]:
        """The rows."""
        return {"rows": self._rows.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        size = min(len(state["rows"]), self._num_rows)
        self._rows = require_tensor(state, "rows", shape=(size, 5), dtype=torch.float32)


def correlation(first: Tensor, second: Tensor) -> float:
    """Pearson's correlation of `[B]` and `[B]`; 0 where one of them does not vary."""
    if not len(first):
        return 0.0
    first, second = first.double() - first.double().mean(), second.double() - second.double().mean()
    scale = float((first.square().sum() * second.square().sum()).sqrt())
    return float((first * second).sum()) / scale if scale > 1e-9 else 0.0


def t_statistic(correlation: float, freedom: float) -> float:
    """Student's t = r sqrt(f / (1 - r^2)): rarely above 2 where nothing is correlated.

    Student 1908, "Probable Error of a Correlation Coefficient".

    Args:
        correlation: r in [-1, 1].
        freedom: f > 0, of n rows n - 2; where they are centred in each of m batches n - m - 1.
    """
    return correlation * (freedom / max(1e-12, 1 - correlation**2)) ** 0.5
