"""The settings of the agent that chooses prompts."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, isfinite

from data_agent.agent.config import DataAgentConfig
from data_agent.errors import InputError
from data_agent.prompts import doors

_RANGES = {
    **dict.fromkeys(("ppo_epochs", "update_every", "hidden", "max_features"), (1, inf)),
    **dict.fromkeys(("replay_rows", "rollout_rows", "evidence_rows"), (2, inf)),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptConfig:
    """How the agent learns which prompts to roll out; the defaults are what we recommend.

    Raises:
        InputError: a value out of its range; the message names it.
    """

    explore: float = 0.2
    """Share in [0, 1] of each batch that is drawn uniformly; bounds how long a prompt waits."""

    reward_range: tuple[float, float] | None = None
    """(low, high) of the summed rewards of a completion; None takes the range of those that came
    so far. Set it where single rewards lie far from all others."""

    learning_rate: float = 3e-3
    """Adam's learning rate, > 0, constant."""

    replay_rows: int = 512
    """Groups that are kept to learn from, >= 2, the newest."""

    rollout_rows: int = 256
    """Of these an update learns from so many, >= 2, drawn anew."""

    update_every: int = 2
    """Batches between updates, >= 1."""

    ppo_epochs: int = 6
    """Gradient steps for each update, >= 1."""

    hidden: int = 128
    """Width of the two hidden layers of actor and critic, >= 1."""

    max_features: int = 256
    """Features wider than this are reduced by a fixed random projection, >= 1."""

    evidence_rows: int = 256
    """Rows, >= 2, in which the policy's actions must go with the utilities that came; else batches
    are drawn uniformly."""

    def __post_init__(self) -> None:
        doors.check_share("explore", self.explore)
        doors.check_reward_range(self.reward_range)
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                raise InputError(f"{name} is {value!r}; expected a whole number >= {low}.")
        rate = self.learning_rate
        if not isinstance(rate, int | float) or not isfinite(rate) or rate <= 0:
            raise InputError(f"learning_rate is {rate!r}; expected a number > 0.")

    def of_policy(self) -> DataAgentConfig:
        """What the policy reads of it."""
        return DataAgentConfig(
            learning_rate=self.learning_rate,
            rollout_rows=self.rollout_rows,
            ppo_epochs=self.ppo_epochs,
            hidden=self.hidden,
        )
