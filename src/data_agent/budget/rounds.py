"""How an epoch is cut into rounds, a batch on each rank, and what becomes of its last ones."""

from __future__ import annotations

from math import ceil
from typing import Literal, NamedTuple

LastRounds = Literal["spread", "cut", "filled"]
"""What becomes of a rest that fills no round.

- "spread": the last rounds share it, so that none is smaller than it must be. Our own loaders.
- "cut": it is a smaller round of its own. Loaders that cut batches themselves.
- "filled": it is filled to a whole round by samples that come twice. Accelerate on several
  processes, and the Trainer there.
"""


class Rounds(NamedTuple):
    """The rounds of an epoch, over all ranks: how many full ones, and the sizes of the others."""

    num_full: int
    last: list[int]


def share_of(count: int, rank: int, world: int) -> int:
    """Of `count` things shared as evenly as possible, how many come to `rank`."""
    return count // world + int(rank < count % world)


def start_of(count: int, rank: int, world: int) -> int:
    """Of `count` things shared in order, the first that comes to `rank`."""
    return rank * (count // world) + min(rank, count % world)


def smallest_batch(num_samples: int, batch_size: int, world: int) -> int:
    """The smallest batch of a loader without a selection, whose ranks have equally many samples."""
    return (ceil(num_samples / world) - 1) % batch_size + 1


def cut(size: int, round_size: int) -> Rounds:
    """Full rounds, and the rest as a smaller one."""
    num_full, rest = divmod(size, round_size)
    return Rounds(num_full, [rest] if rest else [])


def spread(size: int, batch_size: int, world: int, smallest: int) -> Rounds:
    """As many rounds as `cut` makes, of which the fewest possible are not full.

    No batch is smaller than `smallest`, or, where that cannot be, than their mean rounded down. In
    all rounds but the last the ranks have equally many. What is left behind any of the rounds is
    cut as it was: an epoch that goes on there has the same ones.

    Args:
        size: samples over all ranks, a rest of at least `world` among them or none.
        batch_size: samples in a full batch of a rank.
        world: number of ranks.
        smallest: samples that a batch should have at least.
    """
    each, extra = divmod(size, world)
    num_full, rest = divmod(each, batch_size)
    if not rest:
        return cut(size, batch_size * world)
    smallest = min(smallest, each // (num_full + 1))
    missing = batch_size - rest
    num_last = ceil(missing / (batch_size - smallest))
    together = num_last * batch_size - missing
    last = [share_of(together, place, num_last) * world for place in range(num_last)]
    last[-1] += extra
    return Rounds(num_full + 1 - num_last, last)
