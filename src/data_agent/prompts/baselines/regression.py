"""Ridge regression of the utility on history and features, without a policy.

The agent's plainest rival: what it predicts is highest is chosen.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from data_agent.prompts.choice import Choice, Scored
from data_agent.prompts.history import READINGS
from data_agent.prompts.regression import FeatureReader, GroupRegression
from data_agent.prompts.selector import PromptSelector
from data_agent.prompts.utility import Groups

MAX_FEATURES, NUM_ROWS = 256, 512


class RegressedPrompts(PromptSelector):
    """Chooses what a regression on the last 512 groups says is worth most.

    Args:
        num_prompts: N.
        generations: G.
        options: further arguments of `PromptSelector`.
    """

    name = "regression"

    def __init__(self, num_prompts: int, generations: int, **options: Any) -> None:
        super().__init__(num_prompts, generations, **options)
        self._features = FeatureReader(MAX_FEATURES, self.seed)
        self._regression = GroupRegression(NUM_ROWS)

    def score(self, index: Tensor, features: Tensor | None) -> Scored:
        """The predicted utility."""
        read = self._features.read(features, len(index))
        states = torch.cat([self.history.readings(index, self.step), read], 1)
        return Scored(self._regression.predict(states)[:, 0], states)

    def update(self, choice: Choice, groups: Groups) -> None:
        """Keep the batch's rows."""
        assert choice.columns is not None
        known = ~groups.utility.isnan()
        if known.any():
            self._regression.add(
                choice.columns[known], groups.utility[known], groups.success[known]
            )

    def method_state(self) -> dict[str, Any]:
        """The rows."""
        return {
            "num_features": self._features.num_features,
            "regression": self._regression.state_dict(),
        }

    def load_method_state(self, state: Mapping[str, Any]) -> None:
        """Take over what `method_state` returned."""
        num_features = state["num_features"]
        self._features.expect(None if num_features is None else int(num_features))
        width = len(READINGS) + self._features.width
        self._regression.load_state_dict(state["regression"], width)
