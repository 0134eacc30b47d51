"""The agent's settings: one small typed value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, isfinite
from typing import Literal

from torch import Tensor

from data_agent.agent.reward import difficulty, uncertainty
from data_agent.budget.schedule import ScheduleKind
from data_agent.errors import InputError
from data_agent.labels.rules import LabelRules
from data_agent.runtime.names import ChecksNames
from data_agent.selecting.feedback import Feedback

_COUNTS = ("ppo_epochs", "rollout_rows", "update_every", "max_updates", "hidden", "max_features")
_RANGES = {
    **dict.fromkeys(_COUNTS, (1, inf)),
    "rollout_rows": (2, inf),
    **dict.fromkeys(("learning_rate", "clip"), (1e-12, inf)),
    **dict.fromkeys(("weight_decay", "entropy_bonus", "tau_rate"), (0, inf)),
    **dict.fromkeys(("gamma", "gae_lambda", "drift"), (0, 1)),
    "explore": (0, 0.99),
}
_CHOICES = {
    "reward": ("centred", "paper"),
    "ranking": ("redraw", "last-action"),
    "schedule": ("to-the-end", "exact", "paper", "uniform"),
    "dtype": ("float32", "float64"),
}

Signal = Callable[[Feedback], Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class DataAgentConfig(ChecksNames):
    """How the agent learns and chooses; the defaults are what we recommend.

    Raises:
        InputError: a value outside its range; the message names it.
    """

    signals: tuple[Signal, ...] = (difficulty, uncertainty)
    """Reward signals, each a function from a Feedback to [B] values in [0, 1]; at least one."""

    reward: Literal["centred", "paper"] = "centred"
    """"centred" is a (u - tau), with tau the budget's multiplier; "paper" is a u."""

    ranking: Literal["redraw", "last-action"] = "redraw"
    """"redraw" draws a fresh action for every sample in every epoch; "last-action" ranks by the
    action sampled at a sample's last visit (the paper)."""

    schedule: ScheduleKind = "exact"
    """"exact" and "to-the-end" cost keep_ratio of full training. In the final phase the policy is
    not used: "exact" draws it uniformly, "to-the-end" by turns within `label_rules`. "paper" adds
    full epochs at both ends."""

    label_rules: LabelRules | None = None
    """Constraints that labels put on the policy's ranking: equal shares of the classes, doubtful
    labels left out. Each batch must then bring labels; with None they play no part."""

    learning_rate: float = 1e-3
    """Adam's learning rate for actor and critic, > 0; decays linearly to zero over training."""

    weight_decay: float = 5e-4
    """L2 factor in Adam, >= 0."""

    clip: float = 0.2
    """PPO's clipping range of the probability ratio, > 0."""

    ppo_epochs: int = 6
    """Gradient steps for each policy update, >= 1; each sees the whole rollout."""

    rollout_rows: int = 256
    """Rows of a rollout, >= 2: a uniform sub-sample of what was observed since the last update."""

    update_every: int = 10
    """Steps between policy updates, >= 1; more where these hold fewer rows than a rollout."""

    max_updates: int = 640
    """Policy updates in a whole run, about, >= 1: in long runs they come less often than
    `update_every`, so that what they cost a step falls with the length of the run."""

    gamma: float = 0.0
    """Discount in [0, 1]; 0 is the one-step advantage r - V(s)."""

    gae_lambda: float = 0.95
    """Lambda of the generalized advantage estimate in [0, 1]; without effect at gamma = 0."""

    entropy_bonus: float = 0.01
    """Weight of the Beta policy's entropy, >= 0; bounds alpha + beta."""

    tau_rate: float = 0.05
    """Step size of the budget's multiplier for each policy update, >= 0."""

    explore: float = 0.1
    """Share in [0, 1) of a selected epoch that is drawn uniformly: what was given up is looked at
    again, and the budget's multiplier sees what the policy would do with all samples."""

    drift: float = 0.02
    """Share in [0, 1] by which a sample that was not visited moves back to the prior each epoch;
    below 0.0005 half precision loses it."""

    hidden: int = 128
    """Width of the two hidden layers of actor and critic, >= 1."""

    max_features: int = 256
    """Features wider than this are reduced by a fixed random projection, >= 1."""

    dtype: Literal["float32", "float64"] = "float32"
    """Precision of the policy; float64 is for comparing implementations."""

    def __post_init__(self) -> None:
        if (
            not isinstance(self.signals, tuple)
            or not self.signals
            or not all(callable(signal) for signal in self.signals)
        ):
            raise InputError(
                f"signals is {self.signals!r}; expected a tuple of at least one function from a "
                "Feedback to [B] values in [0, 1]."
            )
        if self.label_rules is not None and not isinstance(self.label_rules, LabelRules):
            raise InputError(f"label_rules is {self.label_rules!r}; expected LabelRules or None.")
        for name, known in _CHOICES.items():
            value = getattr(self, name)
            if not isinstance(value, str) or value not in known:
                raise InputError(f"{name} is {value!r}; expected one of {', '.join(known)}.")
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            kind = int if name in _COUNTS else int | float
            if isinstance(value, bool) or not isinstance(value, kind) or not isfinite(value):
                a_number = "a whole number" if name in _COUNTS else "a number"
                raise InputError(f"{name} is {value!r}; expected {a_number}.")
            if not low <= value <= high:
                raise InputError(f"{name} is {value!r}; expected a value in [{low:g}, {high:g}].")

    @classmethod
    def paper(cls) -> DataAgentConfig:
        """The algorithm as published (arXiv 2603.07433), its schedule too.

        See `docs/method.md` for what is known about it. Weights stay one: the constant factor
        1/keep_ratio of the released code only multiplies the learning rate.
        """
        return cls(
            reward="paper",
            ranking="last-action",
            schedule="paper",
            learning_rate=3e-4,
            ppo_epochs=4,
            max_updates=10**9,  # as often as update_every says
            gamma=0.99,
            gae_lambda=0.95,
            entropy_bonus=0.0,
            tau_rate=0.0,
            explore=0.0,
            drift=0.0,
        )
