"""k-center: keep samples so that every sample has a kept one nearby.

Sener and Savarese 2018, "Active Learning for Convolutional Neural Networks: A Core-Set Approach",
https://arxiv.org/abs/1708.00489, algorithm 1 (k-Center-Greedy): again and again take the sample
farthest from all taken so far. At most twice as far from its nearest one, in the worst case, as the
best subset would allow. The subset for a smaller K is the beginning of the order.

Departures. The paper starts from samples that have labels already; here the first one is drawn. Its
refinement by a mixed-integer programme is left out, as most do.
"""

from __future__ import annotations

import torch
from torch import Tensor

from data_agent.baselines.static import Static, scores_of_order, short_epochs
from data_agent.budget.schedule import SelectionSchedule
from data_agent.runtime.random import Purpose, permutation
from data_agent.selecting.proxy import Proxy


class KCenter(Static):
    """Keeps the beginning of `greedy_centers`: `scores=scores_of_order(order, N)`."""

    name = "k-center"

    @classmethod
    def prepare(cls, proxy: Proxy, budget: SelectionSchedule) -> dict[str, Tensor]:
        """The order of the centers in one network's features, after a fifth of the run's epochs."""
        _, features = proxy.train(short_epochs(budget)).look()
        size = len(features)
        first = int(permutation(size, proxy.seed, Purpose.SUBSET)[0])
        order = greedy_centers(features.to(proxy.device), budget.num_kept, first=first)
        return {"scores": scores_of_order(order, size)}


def greedy_centers(features: Tensor, count: int, *, first: int = 0) -> Tensor:
    """The samples that k-Center-Greedy takes from `first` on, in order: int64 `[count]` on the CPU.

    By euclidean distance of features `[N, D]`; of equally far samples the first. O(count N D)
    operations, and O(N) memory beside the features.
    """
    squared_norm = features.square().sum(1)
    distance = torch.full_like(squared_norm, torch.inf)  # to the nearest center, squared
    order = torch.empty(count, dtype=torch.int64, device=features.device)
    center = torch.tensor([first], device=features.device)
    for position in range(count):
        order[position] = center[0]
        # One matrix product a step, without copying the features; rounding may go below zero.
        to_center = squared_norm - 2 * features @ features[center][0] + squared_norm[center]
        distance = torch.minimum(distance, to_center.clamp_min(0))
        distance[center] = -1  # taken, also where others lie at the same place
        center = distance.argmax(keepdim=True)
    return order.cpu()
