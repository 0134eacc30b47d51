"""DAPO's dynamic sampling: roll out uniformly, and train on informative groups only.

Yu et al. 2025, https://arxiv.org/abs/2503.14476, section 3.2: batches are rolled out until enough
groups are informative. Nothing is saved before generation, so every completion counts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from data_agent.prompts.baselines.uniform import UniformPrompts
from data_agent.prompts.utility import groups_of


class FilteredPrompts(UniformPrompts):
    """Uniform, with `keeps` for a loop that rolls out until it has a batch of kept groups.

    Args:
        num_prompts: N.
        generations: G.
        options: `batch`, `seed` and `reward_range` of `PromptSelector`.
    """

    name = "filtering"

    def keeps(self, rewards: Tensor) -> Tensor:
        """Bool `[k]`: the groups of rewards `[k, G]` whose known rewards differ."""
        known = rewards[~rewards.isnan()]
        if not len(known):
            return torch.zeros(len(rewards), dtype=torch.bool)
        return groups_of(rewards, float(known.min()), float(known.max())).is_informative
