"""eps-greedy: train on the samples whose loss is high on average, and on some random ones.

Raju et al. 2021, "Accelerating Deep Learning with Dynamic Data Pruning",
https://arxiv.org/abs/2111.12621: samples are the arms of a bandit; of a subset the share
1 - epsilon are those of highest moving mean of the loss, the share epsilon is drawn uniformly from
the others.

Departures. They are those of `ucb`; alpha = 0.8 and epsilon = 0.1 are from memory.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from data_agent.baselines.moving import MovingLoss
from data_agent.errors import InputError
from data_agent.runtime.random import Purpose, derived_seed, permutation
from data_agent.runtime.topk import top_k_mask


class EpsGreedy(MovingLoss):
    """Takes the highest means, and draws the rest.

    Args:
        epsilon: share of the chosen samples that is drawn, in [0, 1].
        base: as `MovingLoss`.
    """

    name = "eps-greedy"

    def __init__(self, *, epsilon: float = 0.1, **base: Any) -> None:
        super().__init__(**base)
        if not 0 <= epsilon <= 1:
            raise InputError(f"epsilon is {epsilon}; expected a share in [0, 1].")
        self.epsilon = epsilon

    def settings(self) -> dict[str, Any]:
        """Adds the share that is drawn."""
        return {**super().settings(), "epsilon": self.epsilon}

    def choose(self, epoch: int, count: int, excluded: Tensor) -> Tensor:
        """`count - floor(epsilon count)` of the highest, the others drawn from what is left."""
        num_drawn = math.floor(self.epsilon * count)
        tie_seed = derived_seed(self.seed, Purpose.TIE, epoch)
        mask = top_k_mask(self.mean, count - num_drawn, tie_seed=tie_seed, excluded=excluded)
        others = (~(mask | excluded)).nonzero().squeeze(1)
        order = permutation(len(others), self.seed, Purpose.SUBSET, epoch)
        return torch.cat([mask.nonzero().squeeze(1), others[order[:num_drawn]]])
