"""UCB: train on the samples whose loss is high or uncertain, an upper confidence bound.

Raju et al. 2021, "Accelerating Deep Learning with Dynamic Data Pruning",
https://arxiv.org/abs/2111.12621: samples are the arms of a bandit, their loss is the reward;
`m_i + c v_i` with moving mean and variance of the losses ranks them, so that a sample whose loss
jumps is looked at again.

Departures. Losses are those of the visits themselves, and a subset is chosen in each epoch, while
the paper chooses one every few epochs. A sample's first loss is its mean, with variance zero:
averages that start from zero would count the start as variance. We had no access to the paper's
tables and the authors' code: the averages are those of public re-implementations, and alpha = 0.8,
c = 1 are from memory.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from data_agent.baselines.moving import MovingLoss
from data_agent.errors import InputError
from data_agent.runtime.random import Purpose, derived_seed
from data_agent.runtime.topk import top_k_mask


class UCB(MovingLoss):
    """Takes the highest bounds.

    Args:
        confidence: c, weight of the variance, 0 or more.
        base: as `MovingLoss`.
    """

    name = "ucb"

    def __init__(self, *, confidence: float = 1.0, **base: Any) -> None:
        super().__init__(**base)
        if confidence < 0:
            raise InputError(f"confidence is {confidence}; expected 0 or more (0 is the mean).")
        self.confidence = confidence

    def settings(self) -> dict[str, Any]:
        """Adds the weight of the variance."""
        return {**super().settings(), "confidence": self.confidence}

    def choose(self, epoch: int, count: int, excluded: Tensor) -> Tensor:
        """The highest bounds; equal ones are drawn."""
        bound = upper_bound(self.mean, self.variance, self.confidence)
        tie_seed = derived_seed(self.seed, Purpose.TIE, epoch)
        mask = top_k_mask(bound, count, tie_seed=tie_seed, excluded=excluded)
        return mask.nonzero().squeeze(1)


def upper_bound(mean: Tensor, variance: Tensor, confidence: float) -> Tensor:
    """m_i + c v_i, float `[N]`."""
    return mean + confidence * variance
