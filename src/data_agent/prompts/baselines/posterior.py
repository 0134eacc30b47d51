"""MoPPS: a Beta posterior for each prompt, and Thompson draws towards one half.

Qu et al. 2025, "Can Prompt Difficulty be Online Predicted for Accelerating RL Finetuning of
Reasoning Models?", https://arxiv.org/abs/2507.04632: alpha and beta count successes and failures,
the past fades, and of the candidates those whose drawn success is nearest to one half are chosen.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from data_agent.prompts.choice import Choice, Scored
from data_agent.prompts.selector import PromptSelector
from data_agent.prompts.utility import Groups
from data_agent.runtime.random import Purpose, generator
from data_agent.runtime.state import require_tensor

TARGET = 0.5


class PosteriorPrompts(PromptSelector):
    """Reads nothing but past rewards.

    Args:
        num_prompts: N.
        generations: G.
        fading: weight of the past in [0, 1] whenever a prompt is rolled out; 1 forgets nothing.
        options: further arguments of `PromptSelector`; `explore` is 0 if it is not given.
    """

    name = "posterior"
    reads_features = False

    def __init__(
        self, num_prompts: int, generations: int, *, fading: float = 0.5, **options: Any
    ) -> None:
        options.setdefault("explore", 0.0)
        super().__init__(num_prompts, generations, **options)
        self._fading = fading
        self._counts_of = torch.ones(num_prompts, 2)  # alpha, beta

    def score(self, index: Tensor, features: Tensor | None) -> Scored:
        """Minus the distance of a drawn success to one half."""
        del features
        draws = generator(self.seed, Purpose.ACTION, self.step)
        won, lost = torch._standard_gamma(self._counts_of[index], generator=draws).unbind(1)
        return Scored(-(won / (won + lost) - TARGET).square())

    def update(self, choice: Choice, groups: Groups) -> None:
        """Count successes and failures; a graded reward counts as its share of a success."""
        is_known = ~groups.success.isnan()
        index = choice.index[is_known]
        self._counts_of[index] = faded_posterior(
            self._counts_of[index], groups.success[is_known], self.generations, self._fading
        )

    def method_state(self) -> dict[str, Any]:
        """The posteriors."""
        return {"posterior": self._counts_of.clone()}

    def load_method_state(self, state: Mapping[str, Any]) -> None:
        """Take over what `method_state` returned."""
        shape = (self.num_prompts, 2)
        self._counts_of = require_tensor(state, "posterior", shape=shape, dtype=torch.float32)


def faded_posterior(counts: Tensor, success: Tensor, size: int, fading: float) -> Tensor:
    """(alpha, beta) <- fading (alpha, beta) + (1 - fading) (1, 1) + G (p, 1 - p), `[B, 2]`.

    Args:
        counts: `[B, 2]`, (alpha, beta).
        success: `[B]`, p of the group that came.
        size: G.
        fading: in [0, 1].
    """
    came = size * torch.stack([success, 1 - success], 1)
    return fading * counts + (1 - fading) + came
