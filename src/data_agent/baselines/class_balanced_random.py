"""Random subsets with the classes as equal as the data allow, a fresh one each epoch.

Class-balanced sampling is the rule `q = 0` of Kang et al. 2020, "Decoupling Representation and
Classifier for Long-Tailed Recognition", https://arxiv.org/abs/1910.09217, equation 1.

Departures. The paper draws with replacement and repeats small classes. Here an epoch holds K
distinct samples: a class that has fewer than its share gives all of them and the others share the
rest (water-filling); where that leaves single samples over, the classes take turns. Within a class
nothing is drawn again until all of it was seen, as `random` does with the whole dataset.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from data_agent.baselines.inputs import checked_classes
from data_agent.budget.permutations import PermutationStream
from data_agent.labels.shares import up_to, water_level
from data_agent.runtime.random import Purpose, derived_seed, permutation
from data_agent.runtime.state import checksum
from data_agent.selecting.selector import Selector


class ClassBalancedRandom(Selector):
    """A function of labels, seed and epoch; it learns nothing, and every epoch is chosen.

    Args:
        labels: int64 `[N]`, each sample's class, 0 or more.
        base: as `Selector`, without `schedule`.
    """

    name = "class-balanced-random"
    default_schedule = "static"
    required = ("labels",)

    def __init__(self, *, labels: Tensor, **base: Any) -> None:
        super().__init__(schedule="static", **base)
        labels = checked_classes(self.required[0], labels, self.schedule.num_samples)
        self._checksum = checksum(labels)
        sizes = labels.unique(return_counts=True)[1]
        self._members = list(labels.argsort(stable=True).split(sizes.tolist()))
        self._num_trusted = torch.zeros_like(sizes)
        if self.trusted is not None:  # they count for their class, and are no part of its stream
            is_open = ~self.trusted
            self._num_trusted = torch.stack([self.trusted[m].sum() for m in self._members])
            self._members = [members[is_open[members]] for members in self._members]
        self._count = 0
        self._streams: list[PermutationStream] = []

    def settings(self) -> dict[str, Any]:
        """A checksum of the labels."""
        return {self.required[0]: self._checksum}

    def choose(self, epoch: int, count: int, excluded: Tensor) -> Tensor:
        """Each class's quota, from where its stream of permutations stands."""
        del excluded  # the trusted ones, in a static schedule
        if count != self._count:  # the first time, or a loader has changed the budget
            self._count, self._streams = count, self._begin_streams(count)
        pairs = zip(self._members, self._streams, strict=True)
        return torch.cat([members[stream.cut(epoch)] for members, stream in pairs])

    def _begin_streams(self, count: int) -> list[PermutationStream]:
        sizes = torch.tensor([len(members) for members in self._members])
        level = water_level(sizes, self._num_trusted, count)
        own = up_to(level, sizes, self._num_trusted)
        rest = count - int(own.sum())
        is_larger = up_to(level + 1, sizes, self._num_trusted) > own
        num_larger = int(is_larger.sum())
        turns = torch.zeros_like(sizes)
        turns[is_larger] = permutation(num_larger, self.seed, Purpose.SUBSET)
        streams: list[PermutationStream] = []
        parts = zip(sizes.tolist(), own.tolist(), is_larger.tolist(), turns.tolist(), strict=True)
        for label, (size, share, is_larger_one, turn) in enumerate(parts):
            extra = rest if is_larger_one else 0
            quota = partial(_quota, size, share, turn, extra, max(1, num_larger))
            seed = derived_seed(self.seed, Purpose.SUBSET, 1 + label)
            streams.append(PermutationStream(size, seed, Purpose.PERMUTATION, quota))
        return streams


def _quota(size: int, level: int, turn: int, rest: int, num_classes: int, epoch: int) -> int:
    """Samples of a class in `epoch`: its level, one more when it has its turn, or all."""
    return min(size, level + is_its_turn(turn, rest, num_classes, epoch))


def is_its_turn(turn: int, rest: int, num_classes: int, epoch: int) -> bool:
    """Whether the class whose turn is `turn`, in [0, num_classes), gives one more in `epoch`.

    `rest` classes do in each epoch, and go on where the last epoch stopped.
    """
    return (turn - epoch * rest) % num_classes < rest
