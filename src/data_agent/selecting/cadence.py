"""When something is learned from what came: every few steps, at the same step on every rank."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from data_agent.runtime import distributed


class Cadence:
    """Counts steps; every so many of them an update is due.

    Args:
        every: steps between updates at least.
        fewest_rows: rows of all ranks between updates at least.
        most_updates: updates in a run at most.
    """

    def __init__(self, every: int, *, fewest_rows: int, most_updates: int) -> None:
        self._every = every
        self._fewest_rows = fewest_rows
        self._most_updates = most_updates
        self.num_steps = 0
        self.interval = 0

    def count(self, rows_a_step: int, total_rows: int) -> bool:
        """Count a step; whether an update is due.

        Args:
            rows_a_step: rows of a batch on each rank; the first call decides.
            total_rows: of the whole run, over all ranks.
        """
        if self.num_steps == 0:
            rows = rows_a_step * distributed.world_size()
            enough = math.ceil(self._fewest_rows / rows)
            seldom = math.ceil(total_rows / rows / self._most_updates)
            self.interval = max(self._every, enough, seldom)
        self.num_steps += 1
        return self.num_steps % self.interval == 0

    def steps_of(self, sizes: Sequence[int]) -> Tensor:
        """Int64 `[M]`: the step of each row of the latest batches, of so many rows each."""
        steps = torch.arange(self.num_steps - len(sizes), self.num_steps)
        return steps.repeat_interleave(torch.tensor(sizes))

    def state_dict(self) -> dict[str, int]:
        """Steps so far, and how many lie between updates."""
        return {"num_steps": self.num_steps, "update_interval": self.interval}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.num_steps = int(state["num_steps"])
        self.interval = int(state["update_interval"])
