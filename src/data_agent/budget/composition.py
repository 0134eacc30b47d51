"""Puts an epoch together: its uniform part, and what the method wants in the rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter

import torch
from torch import Tensor

from data_agent.budget.permutations import PermutationStream
from data_agent.budget.schedule import EpochPlan, SelectionSchedule
from data_agent.errors import StateError
from data_agent.runtime.random import Purpose, permutation

Choose = Callable[[int, int, Tensor], Tensor]
"""(epoch, count, excluded bool `[N]`) -> int64 `[count]`, as `Method.choose`."""


@dataclass(frozen=True, slots=True, eq=False)
class Composed:
    """The samples of an epoch.

    Args:
        index: int64 `[K]`, ascending.
        uniform: bool `[N]`, those that come unselected; None where all do.
        excluded: bool `[N]`, those that the method did not choose.
        displaced: int64 `[D]`, samples whose unselected visit is put off to the next epoch.
        first: bool `[K]`, those of `index` that an epoch before left out; None for none.
    """

    index: Tensor
    uniform: Tensor | None
    excluded: Tensor
    displaced: Tensor
    first: Tensor | None


class Composition:
    """The samples of each epoch; a pure function of schedule, seed, epoch and choice.

    Args:
        schedule: the budget.
        seed: of the permutations.
    """

    def __init__(self, schedule: SelectionSchedule, seed: int) -> None:
        self._schedule = schedule
        self._seed = seed
        self._streams = (
            PermutationStream(schedule, seed, Purpose.PERMUTATION, attrgetter("num_unselected")),
            PermutationStream(schedule, seed, Purpose.EXPLORE, attrgetter("num_explored")),
        )

    def uniform(self, epoch: int) -> Tensor | None:
        """A mask `[N]` of the samples of `epoch` that no method chooses; None where all are so."""
        return self._taken(epoch) if self._schedule.plan(epoch).num_selected else None

    def compose(self, epoch: int, choose: Choose, first: Tensor | None = None) -> Composed:
        """All samples of `epoch`.

        Args:
            epoch: its number.
            choose: chooses what is left after the unselected samples.
            first: int64 `[F]`, distinct: samples that an epoch before delivered to nobody, which
                come before all others. None where the method's schedule knows no such.

        Raises:
            StateError: `choose` returned samples that repeat or are excluded.
        """
        plan = self._schedule.plan(epoch)
        taken, size = self._taken(epoch), plan.size
        uniform = taken.clone() if plan.num_selected else None
        displaced = torch.empty(0, dtype=torch.int64)
        if first is not None and len(first):
            taken, displaced = self._put_first(first, taken, size, epoch)
        before = taken.clone()
        if num_open := self._num_open(plan, taken):
            chosen = self._choose(choose, plan, epoch, num_open, taken)
            if self._schedule.kind == "floating":
                size = plan.num_uniform + len(chosen)
            taken[chosen] = True
        index = taken.nonzero().squeeze(1)
        if len(index) != size or size == 0:
            raise StateError(
                f"choose() returned samples that repeat or are excluded: epoch {epoch} has "
                f"{len(index)} samples, not {size}."
            )
        is_first = None if first is None or not len(first) else torch.isin(index, first)
        return Composed(index, uniform, before, displaced, is_first)

    def _num_open(self, plan: EpochPlan, taken: Tensor) -> int:
        """How many samples are still to be chosen; an upper bound in a floating schedule."""
        if self._schedule.kind == "floating":
            return plan.num_selected
        return plan.size - int(taken.sum())

    def _choose(
        self, choose: Choose, plan: EpochPlan, epoch: int, count: int, taken: Tensor
    ) -> Tensor:
        """The method's choice; at random where the epoch is unselected and others came first."""
        if plan.num_selected:
            return choose(epoch, count, taken.clone())
        open_to_all = (~taken).nonzero().squeeze(1)
        order = permutation(len(open_to_all), self._seed, Purpose.EXPLORE, epoch)
        return open_to_all[order[:count]]

    def _put_first(
        self, first: Tensor, taken: Tensor, size: int, epoch: int
    ) -> tuple[Tensor, Tensor]:
        """The mask of `first` and as many of the unselected as fit, and what does not fit."""
        mask = torch.zeros_like(taken)
        mask[first[:size]] = True
        others = (taken & ~mask).nonzero().squeeze(1)
        order = permutation(len(others), self._seed, Purpose.SUBSET, epoch)
        num_fitting = max(0, size - int(mask.sum()))
        mask[others[order[:num_fitting]]] = True
        return mask, torch.cat([first[size:], others[order[num_fitting:]]])

    def _taken(self, epoch: int) -> Tensor:
        mask = torch.zeros(self._schedule.num_samples, dtype=torch.bool)
        for stream in self._streams:
            mask[stream.cut(epoch)] = True
        return mask
