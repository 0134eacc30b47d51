"""Random subsets with the classes as equal as the data allow, a fresh one each epoch.

Class-balanced sampling is the rule `q = 0` of Kang et al. 2020, "Decoupling Representation and
Classifier for Long-Tailed Recognition", https://arxiv.org/abs/1910.09217, equation 1: each class
has the same probability. They draw with replacement and repeat small classes. Here an epoch holds
K distinct samples, so a class that has fewer than its share gives all of them and the others share
the rest (water-filling); where that leaves single samples over, the classes take turns. Within a
class nothing is drawn again until all of it was seen, as `random` does with the whole dataset.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from data_agent.baselines.inputs import checked_classes, checksum
from data_agent.budget.permutations import PermutationStream
from data_agent.budget.schedule import ScheduleKind, SelectionSchedule
from data_agent.labels.shares import water_level
from data_agent.runtime.random import Purpose, derived_seed, permutation
from data_agent.selecting.selector import Selector


class ClassBalancedRandom(Selector):
    """A function of labels, seed and epoch; it learns nothing.

    Args:
        labels: int64 `[N]`, each sample's class, 0 or more.
        base: as `Selector`, without `schedule`: every epoch is chosen.

    Raises:
        InputError: labels of another dtype or shape, or negative.
    """

    name: ClassVar[str] = "class-balanced-random"
    default_schedule: ClassVar[ScheduleKind] = "static"
    required: ClassVar[tuple[str, ...]] = ("labels",)

    def __init__(self, *, labels: Tensor, **base: Any) -> None:
        super().__init__(schedule="static", **base)
        labels = checked_classes("labels", labels, self.schedule.num_samples)
        self._checksum = checksum(labels)
        sizes = labels.unique(return_counts=True)[1]
        self._members = labels.argsort(stable=True).split(sizes.tolist())
        self._count = 0
        self._streams: list[_ClassStream] = []

    def settings(self) -> dict[str, Any]:
        """A checksum of the labels."""
        return {"labels": self._checksum}

    def choose(self, epoch: int, count: int, excluded: Tensor) -> Tensor:
        """Each class's quota, from where its stream of permutations stands."""
        del excluded  # none in a static schedule
        if count != self._count:  # the first time, or a loader has changed the budget
            self._streams = self._begin_streams(count)
            self._count = count
        pairs = zip(self._members, self._streams, strict=True)
        return torch.cat([members[stream.cut(epoch)] for members, stream in pairs])

    def _begin_streams(self, count: int) -> list[_ClassStream]:
        sizes = [len(members) for members in self._members]
        all_of_each = torch.tensor(sizes)
        level = water_level(all_of_each, torch.zeros_like(all_of_each), count)
        rest = count - int(all_of_each.clamp(max=level).sum())
        larger = [label for label, size in enumerate(sizes) if size > level]
        turns = permutation(len(larger), self.seed, Purpose.SUBSET).tolist()
        turn_of = dict(zip(larger, turns, strict=True))
        streams: list[_ClassStream] = []
        for label, size in enumerate(sizes):
            seed = derived_seed(self.seed, Purpose.SUBSET, 1 + label)
            extra = partial(is_its_turn, turn_of.get(label, 0), rest, max(1, len(larger)))
            streams.append(_ClassStream(size, seed, level, extra))
        return streams


class _ClassStream(PermutationStream):
    """The stream of permutations of one class, cut by its quota in each epoch.

    Args:
        size: samples of the class.
        seed: of its permutations.
        level: samples of it in each epoch, at most all.
        extra: whether the class gives one more in an epoch, if it has more.
    """

    def __init__(self, size: int, seed: int, level: int, extra: Callable[[int], bool]) -> None:
        everything = SelectionSchedule(num_samples=size, epochs=1, keep_ratio=1)
        super().__init__(everything, seed, Purpose.PERMUTATION, lambda plan: plan.size)
        self._quota = lambda epoch: min(size, level + extra(epoch))

    def cut(self, epoch: int) -> Tensor:
        """int64 `[quota]`: positions within the class, distinct."""
        if epoch < self._epoch:
            self._rewind()
        while self._epoch < epoch:
            self._take(self._quota(self._epoch), keep=True)
            self._epoch += 1
        return self._take(self._quota(epoch), keep=False)


def is_its_turn(turn: int, rest: int, num_classes: int, epoch: int) -> bool:
    """Whether the class whose turn is `turn`, in [0, num_classes), gives one more in `epoch`.

    `rest` classes do in each epoch, and go on where the last epoch stopped.
    """
    return (turn - epoch * rest) % num_classes < rest
