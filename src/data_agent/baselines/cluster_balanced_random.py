"""Random subsets with the clusters as equal as the data allow, a fresh one each epoch.

Clusters of features in the place of classes: Sorscher et al. 2022, "Beyond neural scaling laws",
https://arxiv.org/abs/2206.14486, section on self-supervised pruning, find clusters by k-means in a
network's feature space; Vo et al. 2024, "Automatic Data Curation for Self-Supervised Learning",
https://arxiv.org/abs/2405.15613, sample them evenly. Here quotas and draws are those of
`class-balanced-random`; no distance to a centre plays a part. `prepare` clusters the features of a
network trained for a tenth of the run's epochs.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from data_agent.baselines.class_balanced_random import ClassBalancedRandom
from data_agent.baselines.inputs import checked_classes
from data_agent.baselines.short_training import early_epochs
from data_agent.budget.schedule import SelectionSchedule
from data_agent.selecting.proxy import Proxy


class ClusterBalancedRandom(ClassBalancedRandom):
    """A function of groups, seed and epoch; it learns nothing.

    Args:
        groups: int64 `[N]`, each sample's cluster, 0 or more.
        base: as `Selector`, without `schedule`: every epoch is chosen.

    Raises:
        InputError: groups of another dtype or shape, or negative.
    """

    name: ClassVar[str] = "cluster-balanced-random"
    required: ClassVar[tuple[str, ...]] = ("groups",)

    @classmethod
    def prepare(cls, proxy: Proxy, budget: SelectionSchedule) -> dict[str, Tensor]:
        """Clusters of the features of one network: at most 100, of 20 samples on average."""
        _, features = proxy.train(early_epochs(budget)).look()
        return {"groups": proxy.clusters(features, max(1, min(100, len(features) // 20)))}

    def __init__(self, *, groups: Tensor, num_samples: int, **base: Any) -> None:
        groups = checked_classes("groups", groups, num_samples)
        super().__init__(labels=groups, num_samples=num_samples, **base)

    def settings(self) -> dict[str, Any]:
        """A checksum of the groups."""
        return {"groups": super().settings()["labels"]}
