"""Random subsets with the clusters as equal as the data allow, a fresh one each epoch.

Clusters of features in the place of classes: Sorscher et al. 2022, "Beyond neural scaling laws",
https://arxiv.org/abs/2206.14486, section on self-supervised pruning, find clusters by k-means in a
network's feature space; Vo et al. 2024, "Automatic Data Curation for Self-Supervised Learning",
https://arxiv.org/abs/2405.15613, sample them evenly.

Departures. Quotas and draws are those of `class-balanced-random`; no distance to a centre plays a
part. The features are of a network that is trained for a share of the run's epochs.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from data_agent.baselines.class_balanced_random import ClassBalancedRandom
from data_agent.baselines.static import early_epochs
from data_agent.budget.schedule import SelectionSchedule
from data_agent.selecting.proxy import Proxy


class ClusterBalancedRandom(ClassBalancedRandom):
    """As `ClassBalancedRandom`, with `groups` for labels: int64 `[N]`, clusters, 0 or more."""

    name = "cluster-balanced-random"
    required = ("groups",)

    def __init__(self, *, groups: Tensor, **base: Any) -> None:
        super().__init__(labels=groups, **base)

    @classmethod
    def prepare(cls, proxy: Proxy, budget: SelectionSchedule) -> dict[str, Tensor]:
        """Clusters of one network's features: at most 100, of 20 samples on average."""
        _, features = proxy.train(early_epochs(budget)).look()
        return {"groups": proxy.clusters(features, max(1, min(100, len(features) // 20)))}
