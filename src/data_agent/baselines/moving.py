"""What bandits on the loss share: a moving mean and variance of each sample's losses."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from data_agent.errors import InputError
from data_agent.runtime.state import require_tensor
from data_agent.selecting.feedback import Feedback
from data_agent.selecting.selector import Selector

ALPHA = 0.8


class MovingLoss(Selector):
    """Remembers mean and variance; eight bytes a sample. A sample never visited has mean infinity.

    Args:
        alpha: weight of the newest loss in the moving averages, in (0, 1].
        base: as `Selector`.

    Raises:
        InputError: a value outside its range.
    """

    def __init__(self, *, alpha: float = ALPHA, **base: Any) -> None:
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

    def merge(self, index: Tensor, values: Tensor) -> None:
        """Move both averages."""
        self.mean[index], self.variance[index] = moved(
            self.mean[index], self.variance[index], values[:, 0], self.alpha
        )

    def method_state(self) -> dict[str, Any]:
        """Mean and variance."""
        return {"mean": self.mean.clone(), "variance": self.variance.clone()}

    def load_method_state(self, state: dict[str, Any]) -> None:
        """Take over mean and variance."""
        shape = (self.schedule.num_samples,)
        mean = require_tensor(state, "mean", shape=shape, dtype=torch.float32)
        self.variance = require_tensor(state, "variance", shape=shape, dtype=torch.float32)
        self.mean = mean


def moved(mean: Tensor, variance: Tensor, losses: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """The moving averages after one more loss each.

    `v' = (1 - alpha) v + alpha (l - m)^2` and `m' = (1 - alpha) m + alpha l`; a first loss is the
    mean itself, with variance zero.

    Args:
        mean: m, float `[M]`, infinite before the first loss.
        variance: v, float `[M]`.
        losses: l, float `[M]`.
        alpha: in (0, 1].
    """
    is_first = mean.isinf()
    surprise = (losses - mean).masked_fill(is_first, 0)
    new_variance = (1 - alpha) * variance + alpha * surprise.square()
    return torch.where(is_first, losses, mean + alpha * surprise), new_variance
