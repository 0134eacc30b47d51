"""What subsets that are fixed before training share: made by short trainings, the highest stay.

Papers score samples in a full training, or with ten networks. Here the cost of scoring is part of
the run's cost, so the networks are few and trained for a share of the run's epochs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from data_agent.baselines.inputs import checked_scores
from data_agent.budget.schedule import SelectionSchedule
from data_agent.runtime.random import Purpose, derived_seed
from data_agent.runtime.state import checksum
from data_agent.runtime.topk import top_k_mask
from data_agent.selecting.proxy import Network, Proxy, Visit
from data_agent.selecting.selector import Selector

__all__ = ["Static", "scores_of_order"]
NUM_NETWORKS = 2  # of a mean score


class Static(Selector):
    """Keeps the K highest scores; a method of this kind is a name and `prepare`.

    Args:
        scores: float `[N]` without NaN, higher for samples to keep; equal ones are drawn, once.
        base: as `Selector`.
    """

    default_schedule = "static"
    required = ("scores",)

    def __init__(self, *, scores: Tensor, **base: Any) -> None:
        super().__init__(**base)
        self.scores = checked_scores(scores, self.schedule.num_samples)

    def settings(self) -> dict[str, Any]:
        """A checksum of the scores."""
        return {"scores": checksum(self.scores)}

    def sample_scores(self) -> Tensor:
        """The scores."""
        return self.scores

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


def early_epochs(budget: SelectionSchedule) -> int:
    """A tenth of the run's epochs."""
    return max(1, budget.epochs // 10)


def short_epochs(budget: SelectionSchedule) -> int:
    """A fifth of the run's epochs, two at least: a single visit can forget nothing."""
    return max(2, budget.epochs // 5)


def mean_score(
    proxy: Proxy, budget: SelectionSchedule, score: Callable[[Tensor, Tensor, Tensor], Tensor]
) -> Tensor:
    """The mean of a score of (logits, labels, features) over networks early in training: `[N]`."""
    total = torch.zeros(len(proxy.labels))
    for number in range(NUM_NETWORKS):
        logits, features = proxy.train(early_epochs(budget), number=number).look()
        total += score(logits, proxy.labels, features) / NUM_NETWORKS
    return total


def train_and_note(proxy: Proxy, budget: SelectionSchedule) -> tuple[Network, Tensor]:
    """A network, and whether it classified each sample right at its visits: bool `[T, N]`."""
    labels, epochs = proxy.labels, short_epochs(budget)
    correct = torch.zeros(epochs, len(labels), dtype=torch.bool)

    def note(visit: Visit) -> None:
        right = visit.logits.argmax(1).cpu() == labels[visit.index]
        correct[visit.epoch, visit.index] = right

    return proxy.train(epochs, on_batch=note), correct
