"""What bandits on the loss share: a moving mean and variance of each sample's losses."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from data_agent.baselines.scored import Remembers
from data_agent.errors import InputError
from data_agent.selecting.feedback import Feedback
from data_agent.selecting.selector import Selector


class MovingLoss(Remembers, Selector):
    """Remembers mean and variance; eight bytes a sample. A sample never visited has mean infinity.

    Args:
        alpha: weight of the newest loss in the moving averages, in (0, 1].
        base: as `Selector`.
    """

    remembered = ("mean", "variance")
    reads = ()

    def __init__(self, *, alpha: float = 0.8, **base: Any) -> None:
        super().__init__(**base)
        if not 0 < alpha <= 1:
            raise InputError(f"alpha is {alpha}; expected a weight in (0, 1], 1 for the last loss.")
        self.alpha = alpha
        self.mean = torch.full((self.schedule.num_samples,), torch.inf)
        self.variance = torch.zeros(self.schedule.num_samples)

    def settings(self) -> dict[str, Any]:
        """The weight of the newest loss."""
        return {"alpha": self.alpha}

    def record(self, feedback: Feedback) -> Tensor:
        """The losses, `[B, 1]`."""
        return feedback.losses.float().unsqueeze(1)

    def sample_scores(self) -> Tensor:
        """The moving means of the losses."""
        return self.mean

    def merge(self, index: Tensor, values: Tensor) -> None:
        """Move both averages."""
        self.mean[index], self.variance[index] = moved(
            self.mean[index], self.variance[index], values[:, 0], self.alpha
        )


def moved(mean: Tensor, variance: Tensor, losses: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """The moving averages `[M]` after one more loss each.

    `v' = (1 - alpha) v + alpha (l - m)^2` and `m' = (1 - alpha) m + alpha l`; a first loss, where m
    is infinite, is the mean itself, with variance zero.
    """
    is_first = mean.isinf()
    surprise = (losses - mean).masked_fill(is_first, 0)
    new_variance = (1 - alpha) * variance + alpha * surprise.square()
    return torch.where(is_first, losses, mean + alpha * surprise), new_variance
