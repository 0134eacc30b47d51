"""Ridge regression of the utility on what the agent's policy sees: its plainest rival.

Hoerl and Kennard 1970, "Ridge Regression: Biased Estimation for Nonorthogonal Problems".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from data_agent.prompts.selector import Choice, PromptSelector, Scored
from data_agent.prompts.state import Replay, States
from data_agent.prompts.utility import Groups

MAX_FEATURES, NUM_ROWS, FEWEST, PENALTY = 64, 512, 48, 3.0


class RegressedPrompts(PromptSelector):
    """Chooses what a regression on the last 512 groups, and on squares, says is worth most.

    Args:
        num_prompts: N.
        generations: G.
        options: further arguments of `PromptSelector`.
    """

    name = "regression"

    def __init__(self, num_prompts: int, generations: int, **options: Any) -> None:
        super().__init__(num_prompts, generations, **options)
        self._states = States(MAX_FEATURES, self.seed)
        self._replay = Replay(NUM_ROWS)

    def score(self, index: Tensor, features: Tensor | None) -> Scored:
        """The predicted utility; nothing is ranked before 48 groups came."""
        states = self._states.of(index, features, self.history, self.step)
        if len(self._replay) < FEWEST:
            return Scored(columns=states)
        seen = self._replay.states
        mean, scale = seen.mean(0), seen.std(0).clamp_min(1e-6)
        rows, asked = (_with_squares((part - mean) / scale) for part in (seen, states))
        utility = self._replay.utility.double()
        centre = utility.mean()
        return Scored(asked @ ridge(rows, utility - centre, PENALTY) + centre, states)

    def update(self, choice: Choice, groups: Groups) -> None:
        """Keep the batch's rows."""
        assert choice.columns is not None
        known = ~groups.utility.isnan()
        if known.any():
            self._replay.add(choice.columns[known], groups.utility[known], choice.is_uniform[known])

    def method_state(self) -> dict[str, Any]:
        """The rows."""
        return {"num_features": self._states.num_features, "replay": self._replay.state_dict()}

    def load_method_state(self, state: Mapping[str, Any]) -> None:
        """Take over what `method_state` returned."""
        num_features = state["num_features"]
        self._states.fit(None if num_features is None else int(num_features))
        self._replay.load_state_dict(state["replay"], self._states.width)


def ridge(rows: Tensor, target: Tensor, penalty: float) -> Tensor:
    """Weights w `[D]` that minimise |rows w - target|^2 + penalty |w|^2.

    (X'X + penalty I) w = X'y, with X float64 `[R, D]` and y `[R]`.
    """
    gram = rows.T @ rows + penalty * torch.eye(rows.shape[1], dtype=rows.dtype)
    return torch.linalg.solve(gram, rows.T @ target)


def _with_squares(rows: Tensor) -> Tensor:
    rows = rows.double().clamp(-5, 5)
    squares = rows.square()
    return torch.cat([rows, squares - 1], 1)
