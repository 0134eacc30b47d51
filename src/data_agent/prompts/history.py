"""What is remembered of each prompt, and what a policy reads of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from data_agent.errors import CheckpointError
from data_agent.prompts.utility import Groups
from data_agent.runtime.state import require_tensor

MEMORY = 0.5  # weight of the past in a prompt's average success
READINGS = ("known", "success", "mean_success", "utility", "age", "visits")
"""The columns of `History.readings`."""


class History:
    """Visits, successes and utilities of N prompts, 20 bytes each.

    Args:
        num_prompts: N.
        reward_range: (low, high) of rewards; None takes the range of those that came so far.
    """

    def __init__(self, num_prompts: int, reward_range: tuple[float, float] | None) -> None:
        self.visits = torch.zeros(num_prompts, dtype=torch.int32)
        self.last_step = torch.full((num_prompts,), -1, dtype=torch.int32)
        unknown = torch.full((num_prompts,), torch.nan)
        self.success, self.mean_success, self.utility = (unknown.clone() for _ in range(3))
        self._is_given = reward_range is not None
        self.reward_range = reward_range
        self._typical = torch.tensor([0.5, 0.5, 0.0])  # success, mean success, utility of late

    def widen(self, rewards: Tensor) -> tuple[float, float]:
        """The range of rewards once `[k, G]` have come; NaN does not count."""
        known = rewards[~rewards.isnan()]
        if not self._is_given and len(known):
            low, high = float(known.min()), float(known.max())
            if self.reward_range is not None:
                low, high = min(low, self.reward_range[0]), max(high, self.reward_range[1])
            self.reward_range = (low, high)
        return self.reward_range or (0.0, 1.0)

    def record(self, index: Tensor, groups: Groups, step: int) -> None:
        """Remember what the groups of prompts `index` `[k]` said at `step`."""
        self.visits[index] += 1
        self.last_step[index] = step
        for column, values in ((self.success, groups.success), (self.utility, groups.utility)):
            column[index] = torch.where(values.isnan(), column[index], values)
        before = self.mean_success[index]
        mean = torch.where(
            before.isnan(), groups.success, MEMORY * before + (1 - MEMORY) * groups.success
        )
        self.mean_success[index] = torch.where(groups.success.isnan(), before, mean)
        self._follow(groups)

    def readings(self, index: Tensor, step: int) -> Tensor:
        """float32 `[B, 6]`, see `READINGS`; of what is not known what was typical of late."""
        columns = (self.success[index], self.mean_success[index], self.utility[index])
        known = [torch.where(c.isnan(), t, c) for c, t in zip(columns, self._typical, strict=True)]
        is_known = (~columns[0].isnan()).float()
        age = (step - self.last_step[index]).float().log1p()
        return torch.stack([is_known, *known, age, self.visits[index].float().log1p()], 1)

    def state_dict(self) -> dict[str, Any]:
        """All columns, the range, and what is typical."""
        names = ("visits", "last_step", "success", "mean_success", "utility")
        columns = {name: getattr(self, name).clone() for name in names}
        ends = None if self.reward_range is None else list(self.reward_range)
        return {**columns, "reward_range": ends, "typical": self._typical.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned.

        Raises:
            CheckpointError: a column of another length or dtype, or a range that is none.
        """
        shape = (len(self.visits),)
        whole = [
            require_tensor(state, name, shape=shape, dtype=torch.int32)
            for name in ("visits", "last_step")
        ]
        real = [
            require_tensor(state, name, shape=shape, dtype=torch.float32)
            for name in ("success", "mean_success", "utility")
        ]
        typical = require_tensor(state, "typical", shape=(3,), dtype=torch.float32)
        self.reward_range = _range_of(state.get("reward_range"))
        self.visits, self.last_step = whole
        self.success, self.mean_success, self.utility = real
        self._typical = typical

    def _follow(self, groups: Groups) -> None:
        """Let the typical values move a twentieth towards the mean of a batch."""
        means = torch.stack([groups.success, groups.success, groups.utility]).nanmean(1)
        moved = torch.lerp(self._typical, means, 0.05)
        self._typical = torch.where(means.isnan(), self._typical, moved)


def _range_of(ends: Any) -> tuple[float, float] | None:
    if ends is None:
        return None
    is_pair = isinstance(ends, list) and len(ends) == 2
    if not is_pair or not all(isinstance(end, float) for end in ends) or ends[0] > ends[1]:
        raise CheckpointError(f"'reward_range' is {ends!r}; expected two numbers or None.")
    return (ends[0], ends[1])
