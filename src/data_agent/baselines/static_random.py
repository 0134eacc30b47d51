"""One random subset, drawn before training and kept: what a static subset must beat.

The control of every paper on static subsets, for example Paul et al. 2021, "Deep Learning on a
Data Diet", https://arxiv.org/abs/2107.07075, section 3. It sees less of the data than `random`,
which draws a new subset in each epoch.
"""

from __future__ import annotations

from torch import Tensor

from data_agent.runtime.random import Purpose, permutation
from data_agent.selecting.selector import Selector


class StaticRandom(Selector):
    """The first K of one permutation of the dataset; the subset of a smaller K is part of it."""

    name = "static-random"
    default_schedule = "static"

    def choose(self, epoch: int, count: int, excluded: Tensor) -> Tensor:
        """The same samples, whatever the epoch."""
        del epoch
        order = permutation(len(excluded), self.seed, Purpose.SUBSET)
        return order[~excluded[order]][:count]
