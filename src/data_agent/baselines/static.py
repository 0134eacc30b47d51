"""What subsets that are fixed before training share: the highest given scores, in every epoch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from data_agent.baselines.inputs import checked_scores, checksum
from data_agent.runtime.random import Purpose, derived_seed
from data_agent.runtime.topk import top_k_mask
from data_agent.selecting.selector import Selector

__all__ = ["Static", "scores_of_order"]


class Static(Selector):
    """Keeps the K highest scores; a method of this kind is a name and `prepare`.

    Args:
        scores: float `[N]`, higher for samples to keep; equal ones are drawn, once.
        base: as `Selector`.

    Raises:
        InputError: scores of another shape or dtype, or NaN.
    """

    default_schedule = "static"
    required = ("scores",)

    def __init__(self, *, scores: Tensor, **base: Any) -> None:
        super().__init__(**base)
        self.scores = checked_scores(scores, self.schedule.num_samples)

    def settings(self) -> dict[str, Any]:
        """A checksum of the scores."""
        return {"scores": checksum(self.scores)}

    def choose(self, epoch: int, count: int, excluded: Tensor) -> Tensor:
        """The same highest scores, whatever the epoch."""
        del epoch
        tie_seed = derived_seed(self.seed, Purpose.TIE)
        mask = top_k_mask(self.scores, count, tie_seed=tie_seed, excluded=excluded)
        return mask.nonzero().squeeze(1)


def scores_of_order(order: Tensor, num_samples: int) -> Tensor:
    """Scores that rank samples as `order` does: -0, -1, ..., and -N for those it leaves out.

    Args:
        order: int64 `[K]`, distinct samples, the one to keep first at the front.
        num_samples: N, at most 2^24, so that every position is a float32 of its own.
    """
    scores = torch.full((num_samples,), -float(num_samples))
    scores[order] = -torch.arange(len(order), dtype=torch.float32)
    return scores
