"""Puts an epoch together: its uniform part, and what the method wants in the rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from data_agent.budget.permutations import PermutationStream
from data_agent.budget.schedule import EpochPlan, SelectionSchedule
from data_agent.errors import StateError
from data_agent.runtime.masks import copy_of, mask_of, only, places_of, size_of
from data_agent.runtime.random import Purpose, derived_seed, position_hash
from data_agent.runtime.topk import draw_mask

Choose = Callable[[int, int, Tensor], Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Composed:
    """The samples of an epoch.

    Args:
        index: int64 `[K]`, ascending.
        uniform: bool `[N]`, those that come unselected; None where all do.
        excluded: bool `[N]`, those that the method did not choose.
        displaced: int64 `[D]`, samples whose visit is put off to the next epoch, oldest first.
        first: int64 `[F]`, those of `index` that an epoch before left out, likewise; None for none.
    """

    index: Tensor
    uniform: Tensor | None
    excluded: Tensor
    displaced: Tensor
    first: Tensor | None


class Composition:
    """The samples of each epoch; a pure function of its arguments, the epoch and the choice.

    Args:
        schedule: the budget.
        seed: of the draws.
        trusted: bool `[N]`, samples that are in every epoch but those of the warm-up, which has all
            of them once; None for none.
    """

    def __init__(
        self, schedule: SelectionSchedule, seed: int, trusted: Tensor | None = None
    ) -> None:
        self._schedule = schedule
        self._seed = seed
        self._trusted = trusted
        size, shard = schedule.num_samples, schedule.shard
        count_of = partial(_num_unselected, schedule, trusted is not None)
        stream = partial(PermutationStream, size, seed, shard=shard)
        self._unselected = stream(Purpose.PERMUTATION, count_of)
        self._explored = stream(Purpose.EXPLORE, partial(_num_explored, schedule))
        if trusted is not None:
            count_of = partial(_num_beside, schedule, size_of(trusted))
            self._beside = stream(Purpose.TRUSTED, count_of, among=~trusted)

    def uniform(self, epoch: int) -> Tensor | None:
        """A mask `[N]` of the samples of `epoch` that no method chooses; None where all are so."""
        return self._taken(epoch) if self._schedule.plan(epoch).num_selected else None

    def compose(self, epoch: int, choose: Choose, first: Tensor | None = None) -> Composed:
        """All samples of `epoch`.

        Args:
            epoch: its number.
            choose: chooses what is left after the unselected samples; see `Method.choose`.
            first: int64 `[F]`, distinct: samples that an epoch before did not deliver, which
                come before all others, oldest first. None where the schedule knows no such.

        Raises:
            StateError: `choose` returned samples that repeat or are excluded.
        """
        plan = self._schedule.plan(epoch)
        uniform, size = self._taken(epoch), plan.size
        wanted = uniform
        if self._trusted is not None and plan.phase != "warm-up":
            wanted = uniform | self._trusted
        before, comes_first = wanted, None
        displaced = torch.empty(0, dtype=torch.int64)
        if first is not None and len(first):
            comes_first = first[:size]
            before = self._put_first(mask_of(comes_first, len(wanted)), wanted, size, epoch)
            others = only(only(wanted, before), mask_of(first, len(wanted)))
            displaced = torch.cat([first[size:], self._put_off(others, epoch)])
        taken = copy_of(before)
        is_floating = self._schedule.kind == "floating"
        if num_open := plan.num_selected if is_floating else size - size_of(before):
            chosen = self._choose(choose, plan, epoch, num_open, taken)
            if is_floating:
                size = plan.num_uniform + len(chosen)  # which are never a mask there
            taken |= chosen if chosen.dtype == torch.bool else mask_of(chosen, len(taken))
        index = places_of(taken)
        if len(index) != size or size == 0:
            raise StateError(
                f"choose() returned samples that repeat or are excluded: epoch {epoch} has "
                f"{len(index)} samples, not {size}."
            )
        uniform = uniform if plan.num_selected else None
        return Composed(index, uniform, before, displaced, comes_first)

    def _choose(
        self, choose: Choose, plan: EpochPlan, epoch: int, count: int, excluded: Tensor
    ) -> Tensor:
        """The method's choice; at random where the epoch is unselected."""
        if plan.num_selected:
            return choose(epoch, count, excluded)
        return self._drawn(count, ~excluded, Purpose.EXPLORE, epoch)

    def _put_first(self, first: Tensor, taken: Tensor, size: int, epoch: int) -> Tensor:
        """A mask of `first` and of as many of the unselected as fit beside them."""
        num_fitting = max(0, size - size_of(first))
        return first | self._drawn(num_fitting, only(taken, first), Purpose.SUBSET, epoch)

    def _put_off(self, mask: Tensor, epoch: int) -> Tensor:
        """int64: the samples of a bool `[N]`, in the random order in which they will come."""
        places = places_of(mask)
        seed = derived_seed(self._seed, Purpose.ORDER, epoch)
        return places[position_hash(places, seed).argsort(stable=True)]

    def _drawn(self, count: int, among: Tensor, purpose: Purpose, epoch: int) -> Tensor:
        seed = derived_seed(self._seed, purpose, epoch)
        return draw_mask(len(among), count, seed, among, self._schedule.shard)

    def _taken(self, epoch: int) -> Tensor:
        """A mask `[N]` of the samples that come unselected."""
        plan = self._schedule.plan(epoch)
        if self._trusted is not None and _is_shared(plan):
            return self._trusted | self._beside.cut(epoch)
        if not plan.num_explored:
            return self._unselected.cut(epoch)
        if not plan.num_unselected:
            return self._explored.cut(epoch)
        return self._unselected.cut(epoch) | self._explored.cut(epoch)


def _is_shared(plan: EpochPlan) -> bool:
    """Whether trusted samples and all others share an epoch in which nothing is chosen."""
    return not plan.num_selected and plan.phase != "warm-up"


def _num_unselected(schedule: SelectionSchedule, has_trusted: bool, epoch: int) -> int:
    plan = schedule.plan(epoch)
    return 0 if has_trusted and _is_shared(plan) else plan.num_unselected


def _num_beside(schedule: SelectionSchedule, num_trusted: int, epoch: int) -> int:
    """What is left for all others of an epoch in which nothing is chosen."""
    plan = schedule.plan(epoch)
    return plan.num_unselected - num_trusted if _is_shared(plan) else 0


def _num_explored(schedule: SelectionSchedule, epoch: int) -> int:
    return schedule.plan(epoch).num_explored
