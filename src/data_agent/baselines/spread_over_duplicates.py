"""Random subsets in which a group of near-duplicates counts as one sample, as long as that lasts.

Our own. Where a picture is in the data thirteen times, a uniform draw spends thirteen visits on it
in each pass, and the others wait. Here groups get equal shares of an epoch: all groups rise to one
level (water-filling, as classes in `class-balanced-random`), a single sample comes at most once,
and where samples are left over, groups take turns, in the stream of permutations of `random`.
Within a group its members take turns too. Near-duplicates are found from the inputs, before
training: Lee et al. 2022, "Deduplicating Training Data Makes Language Models Better",
https://arxiv.org/abs/2107.06499, remove them; nothing is removed here, copies differ a little and
are augmentation.

Without near-duplicates it is `random`, sample by sample: every group has one member, and nothing is
left but the groups' turns.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from data_agent.baselines.inputs import checked_classes
from data_agent.budget.permutations import PermutationStream
from data_agent.budget.schedule import SelectionSchedule
from data_agent.labels.shares import up_to, water_level
from data_agent.runtime.random import Purpose, derived_seed, position_hash
from data_agent.runtime.state import checksum
from data_agent.selecting.proxy import Proxy
from data_agent.selecting.selector import Selector


class SpreadOverDuplicates(Selector):
    """A function of groups, seed and epoch; it learns nothing, and every epoch is chosen.

    It holds up to 24 bytes a sample, and what is saved is a checksum of the groups.

    Args:
        groups: int64 `[N]`, 0 or more, equal for near-duplicates; `data_agent.duplicates` finds
            them: `image_groups`, `text_groups`, `feature_groups`.
        base: as `Selector`, without `schedule`.

    Raises:
        InputError: groups of another shape or dtype, or a value outside its range.
    """

    name = "spread-over-duplicates"
    default_schedule = "static"
    required = ("groups",)

    def __init__(self, *, groups: Tensor, **base: Any) -> None:
        super().__init__(schedule="static", **base)
        groups = checked_classes("groups", groups, self.schedule.num_samples)
        self._checksum = checksum(groups)
        self._group = numbered_by_first(groups)
        is_open = torch.ones_like(groups, dtype=torch.bool)
        if self.trusted is not None:  # they count for their group, and are in each epoch anyway
            is_open = ~self.trusted
        num_groups = 1 + int(self._group.max())
        self._sizes = torch.bincount(self._group[is_open], minlength=num_groups)
        self._num_trusted = torch.bincount(self._group[~is_open], minlength=num_groups)
        seed = derived_seed(self.seed, Purpose.SUBSET)
        self._place = places_in_groups(self._group, is_open, seed)
        self._count = 0

    @classmethod
    def prepare(cls, proxy: Proxy, budget: SelectionSchedule) -> dict[str, Tensor]:
        """Groups of near-duplicates among the run's inputs; no network is trained for them."""
        del budget
        return {"groups": proxy.near_duplicates()}

    def settings(self) -> dict[str, Any]:
        """A checksum of the groups."""
        return {"groups": self._checksum}

    def describe(self) -> str:
        """How many near-duplicates there are."""
        num_groups = len(self._sizes)
        return f"{super().describe()}; {len(self._group)} samples, {num_groups} groups"

    def choose(self, epoch: int, count: int, excluded: Tensor) -> Tensor:
        """Each group's share, bool `[N]`: of its members those whose turn it is."""
        del excluded  # the trusted ones, in a static schedule
        if count != self._count:  # the first time, or a loader has changed the budget
            self._count, self._level, self._turns = count, *self._begin(count)
        level = up_to(self._level, self._sizes, self._num_trusted)
        one_more = self._turns.cut(epoch).long()
        share = level + one_more
        given = epoch * level + self._turns.visits() - one_more  # in the epochs before
        since = (self._place - given[self._group]) % self._sizes.clamp_min(1)[self._group]
        return (self._place >= 0) & (since < share[self._group])

    def _begin(self, count: int) -> tuple[int, PermutationStream]:
        """The level to which groups rise, and whose turn it is to give one more."""
        level = water_level(self._sizes, self._num_trusted, count)
        share = up_to(level, self._sizes, self._num_trusted)
        is_larger = up_to(level + 1, self._sizes, self._num_trusted) > share
        rest = count - int(share.sum())
        turns = PermutationStream(
            len(share), self.seed, Purpose.PERMUTATION, lambda _: rest, among=is_larger
        )
        return level, turns


def numbered_by_first(groups: Tensor) -> Tensor:
    """The groups from 0 on, in the order of their first members: int64 `[N]`."""
    number = groups.unique(return_inverse=True)[1]
    first = torch.full((1 + int(number.max()),), len(groups))
    first = first.scatter_reduce(0, number, torch.arange(len(groups)), reduce="amin")
    return first.argsort().argsort()[number]


def places_in_groups(group: Tensor, is_open: Tensor, seed: int) -> Tensor:
    """Each member's place in the order of its group, from 0 on: int64 `[N]`.

    The order is random, and none but the open members are in it; the place of others is -1.

    Args:
        group: int64 `[N]`, from 0 on.
        is_open: bool `[N]`.
        seed: of the order.
    """
    members = is_open.nonzero().squeeze(1)
    members = members[position_hash(members, seed).argsort(stable=True)]
    members = members[group[members].argsort(stable=True)]
    sizes = torch.bincount(group[members])
    before = sizes.cumsum(0) - sizes
    place = torch.full_like(group, -1)
    place[members] = torch.arange(len(members)) - before[group[members]]
    return place
