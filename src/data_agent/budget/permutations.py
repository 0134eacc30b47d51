"""Uniform visits: cuts of one stream of permutations, so that no sample falls behind."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from data_agent.budget.schedule import EpochPlan, SelectionSchedule
from data_agent.runtime.random import Purpose, permutation


class PermutationStream:
    """Uniform visits of a run: consecutive cuts of one stream of permutations of all samples.

    Pass p over the data is a permutation seeded by (seed, p). A cut that spans two passes must not
    hold a sample twice: those of the new pass that the cut already holds are deferred, they come
    right after it. So any two samples' visits differ by at most one, wherever the stream stands.

    A pure function of its arguments and the epoch; the last position is only remembered for speed.

    Args:
        schedule: the budget.
        seed: of the permutations.
        purpose: tells streams with one seed apart.
        count_of: how many samples an epoch of this plan takes from the stream.
    """

    def __init__(
        self,
        schedule: SelectionSchedule,
        seed: int,
        purpose: Purpose,
        count_of: Callable[[EpochPlan], int],
    ) -> None:
        self._schedule = schedule
        self._seed = seed
        self._purpose = purpose
        self._count_of = count_of
        self._rewind()

    def cut(self, epoch: int) -> Tensor:
        """int64 `[count]`: the samples that `epoch` takes, distinct, in stream order."""
        if epoch < self._epoch:
            self._rewind()
        while self._epoch < epoch:
            self._take(self._count_of(self._schedule.plan(self._epoch)), keep=True)
            self._epoch += 1
        return self._take(self._count_of(self._schedule.plan(epoch)), keep=False)

    def _rewind(self) -> None:
        self._epoch = 0
        self._passes = 0
        self._left = torch.empty(0, dtype=torch.int64)

    def _take(self, count: int, *, keep: bool) -> Tensor:
        """The next `count` samples; `keep` moves the stream on."""
        if count <= len(self._left):
            taken, left, passes = self._left[:count], self._left[count:], self._passes
        else:
            head, passes = self._left, self._passes + 1
            order = permutation(self._schedule.num_samples, self._seed, self._purpose, self._passes)
            in_head = torch.zeros(self._schedule.num_samples, dtype=torch.bool)
            in_head[head] = True
            fresh = (~in_head[order]).nonzero().squeeze(1)[: count - len(head)]
            is_left = torch.ones(len(order), dtype=torch.bool)
            is_left[fresh] = False
            taken, left = torch.cat([head, order[fresh]]), order[is_left]
        if keep:
            self._left, self._passes = left, passes
        return taken
