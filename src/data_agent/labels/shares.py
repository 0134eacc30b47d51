"""Equal shares: how many samples of each class an epoch takes."""

from __future__ import annotations

import torch
from torch import Tensor

from data_agent.runtime.random import position_hash


def water_level(sizes: Tensor, taken: Tensor, count: int) -> int:
    """The highest level to which `count` samples fill all classes (water-filling).

    A class rises to the level unless it has no more samples, or is above it already.

    Args:
        sizes: int64 `[G]`, samples of each class that can be chosen.
        taken: int64 `[G]`, samples of each class that are in the epoch already.
        count: to choose, in [0, sum(sizes)].
    """
    low, high = 0, int((sizes + taken).max())
    while low < high:  # the highest level that does not ask for more than `count`
        level = (low + high + 1) // 2
        if int(up_to(level, sizes, taken).sum()) <= count:
            low = level
        else:
            high = level - 1
    return low


def up_to(level: int, sizes: Tensor, taken: Tensor) -> Tensor:
    """int64 `[G]`: what each class gives so that it rises to `level`."""
    return torch.minimum((level - taken).clamp_min(0), sizes)


def equal_shares(sizes: Tensor, taken: Tensor, count: int, *, seed: int = 0) -> Tensor:
    """How many to choose of each class, so that what is taken and chosen is as equal as can be.

    Single samples that the water level leaves over go to classes at random.

    Args:
        sizes: as `water_level`.
        taken: as there.
        count: as there.
        seed: of what is left over.

    Returns:
        int64 `[G]`, at most `sizes`, with the sum `count`.
    """
    level = water_level(sizes, taken, count)
    quota = up_to(level, sizes, taken)
    open_to_more = (up_to(level + 1, sizes, taken) > quota).nonzero().squeeze(1)
    at_random = position_hash(open_to_more, seed).argsort(stable=True)
    quota[open_to_more[at_random[: count - int(quota.sum())]]] += 1
    return quota
