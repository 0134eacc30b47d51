"""Shared by methods that look at the samples before training: how long, and what is noted.

Papers score samples in a full training, or with ten networks. Here the cost of scoring is part of
the run's cost, so the networks are few and trained for a share of the run's epochs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from data_agent.budget.schedule import SelectionSchedule
from data_agent.selecting.proxy import Network, Proxy, Visit

NUM_NETWORKS = 2  # of a mean score


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
