"""Uniform visits: cuts of one stream of permutations, so that no sample falls behind."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from data_agent.runtime.masks import packed, size_of, unpacked
from data_agent.runtime.random import Purpose, derived_seed
from data_agent.runtime.shards import WHOLE, Shard
from data_agent.runtime.topk import draw_mask


class PermutationStream:
    """Uniform visits of a run: consecutive cuts of one stream of permutations of all samples.

    Pass p over the data is the order of the samples by a hash seeded by (seed, p), of which a cut
    takes the next ones. A cut that spans two passes must not hold a sample twice: those of the new
    pass that the cut already holds are deferred, they come right after it. So any two samples'
    visits differ by at most one, wherever the stream stands.

    A pure function of its arguments and the epoch; where it stood last is only remembered for
    speed, one bit a sample.

    Args:
        size: how many samples there are.
        seed: of the permutations.
        purpose: tells streams with one seed apart.
        count_of: how many samples an epoch takes from the stream, at most all of `among`.
        among: bool `[size]`, samples that the stream is of; None for all.
        shard: of which the samples are.
    """

    def __init__(
        self,
        size: int,
        seed: int,
        purpose: Purpose,
        count_of: Callable[[int], int],
        among: Tensor | None = None,
        shard: Shard = WHOLE,
    ) -> None:
        self._size = size
        self._among = among
        self._length = size if among is None else size_of(among)
        self._seed = seed
        self._purpose = purpose
        self._shard = shard
        self._count_of = count_of
        self._rewind()

    def cut(self, epoch: int) -> Tensor:
        """Bool `[size]`: the samples that `epoch` takes."""
        if epoch < self._epoch:
            self._rewind()
        together = 0  # what epochs take from one pass is drawn at once
        for passed in range(self._epoch, epoch):
            count = self._count_of(passed)
            if together + count > self._num_left:
                self._take(together)
                self._take(count)
                together = 0
            else:
                together += count
        if together:
            self._take(together)
        self._epoch = epoch + 1
        return self._take(self._count_of(epoch))

    def visits(self) -> Tensor:
        """int64 `[size]`: how often each sample came, up to the epoch that was cut last."""
        done = unpacked(self._done & ~self._outside(), self._size)
        visits = done.long() + self._pass
        return visits if self._among is None else visits * self._among

    def _rewind(self) -> None:
        self._epoch = 0  # the next one
        self._pass = 0
        self._num_left = self._length  # of the pass
        self._done = self._outside()  # a bit for each sample

    def _take(self, count: int) -> Tensor:
        """Move the stream on by `count` samples."""
        if count <= self._num_left:
            taken = self._draw(count, unpacked(~self._done, self._size))
            self._done |= packed(taken)
            self._num_left -= count
        else:
            self._pass += 1
            outside = self._outside()
            came = unpacked(self._done & ~outside, self._size)
            fresh = self._draw(count - self._num_left, came)
            taken = unpacked(~self._done, self._size) | fresh
            self._done = packed(fresh) | outside
            self._num_left += self._length - count
        return taken

    def _outside(self) -> Tensor:
        """A bit for each sample that the stream never takes."""
        if self._among is None:
            return torch.zeros((self._size + 7) // 8, dtype=torch.uint8)
        return packed(~self._among)

    def _draw(self, count: int, among: Tensor) -> Tensor:
        seed = derived_seed(self._seed, self._purpose, self._pass)
        return draw_mask(self._size, count, seed, among, self._shard)
