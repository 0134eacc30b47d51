"""Puts an epoch together: its uniform part, and what the method wants in the rest."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter

import torch
from torch import Tensor

from data_agent.budget.permutations import PermutationStream
from data_agent.budget.schedule import SelectionSchedule
from data_agent.errors import StateError
from data_agent.runtime.random import Purpose

Choose = Callable[[int, int, Tensor], Tensor]
"""(epoch, count, excluded bool `[N]`) -> int64 `[count]`, as `Method.choose`."""


class Composition:
    """The samples of each epoch; a pure function of schedule, seed, epoch and choice.

    Args:
        schedule: the budget.
        seed: of the permutations.
    """

    def __init__(self, schedule: SelectionSchedule, seed: int) -> None:
        self._schedule = schedule
        self._streams = (
            PermutationStream(schedule, seed, Purpose.PERMUTATION, attrgetter("num_unselected")),
            PermutationStream(schedule, seed, Purpose.EXPLORE, attrgetter("num_explored")),
        )

    def uniform(self, epoch: int) -> Tensor | None:
        """A mask `[N]` of the samples of `epoch` that no method chooses; None where all are so."""
        return self._taken(epoch) if self._schedule.plan(epoch).num_selected else None

    def samples(self, epoch: int, choose: Choose) -> tuple[Tensor, Tensor | None]:
        """int64 `[K]`, ascending: all samples of `epoch`; and what `uniform` returns.

        Raises:
            StateError: `choose` returned samples that repeat or are excluded.
        """
        plan = self._schedule.plan(epoch)
        taken, uniform, size = self._taken(epoch), None, plan.size
        if plan.num_selected:
            uniform = taken.clone()
            chosen = choose(epoch, plan.num_selected, uniform.clone())
            if self._schedule.kind == "floating":
                size = plan.num_uniform + len(chosen)
            taken[chosen] = True
        index = taken.nonzero().squeeze(1)
        if len(index) != size or size == 0:
            raise StateError(
                f"choose() returned samples that repeat or are excluded: epoch {epoch} has "
                f"{len(index)} samples, not {size}."
            )
        return index, uniform

    def _taken(self, epoch: int) -> Tensor:
        mask = torch.zeros(self._schedule.num_samples, dtype=torch.bool)
        for stream in self._streams:
            mask[stream.cut(epoch)] = True
        return mask
