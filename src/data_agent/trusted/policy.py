"""The policy that trusted rows teach: choose in proportion to how much likelier they make a row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any, get_args

import torch
from torch import Tensor

from data_agent.errors import InputError
from data_agent.runtime.names import ChecksNames
from data_agent.runtime.random import projection
from data_agent.selecting.cadence import Cadence
from data_agent.selecting.feedback import Feedback
from data_agent.trusted.reward import ClassShares, TrustedReward

MAX_FEATURES = 64  # wider ones are reduced by a fixed random projection


@dataclass(frozen=True, kw_only=True, slots=True)
class TrustedConfig(ChecksNames):
    """How an agent learns from trusted rows; the defaults are what we recommend.

    Raises:
        InputError: a value outside its range; the message names it.
    """

    sharpness: float = 2.0
    """beta, >= 0: choices are drawn in proportion to exp(beta D); 0 is a uniform draw."""

    memory: float = 0.5
    """Weight of a sample's visits before the last one, in [0, 1)."""

    ridge: float = 1.0
    """Of the regression, > 0; more of it trusts small differences less."""

    update_every: int = 10
    """Steps between two regressions, >= 1."""

    max_updates: int = 640
    """Regressions in a run at most, >= 1: longer runs make them less often."""

    explore: float = 0.1
    """Share in (0, 1) of a selected epoch that is drawn uniformly: the regression needs rows that
    stand for all data."""

    class_shares: ClassShares = "trusted"
    """Whose class shares are asked for: with "data" the classes stay about as frequent as they are,
    and within each of them is learned what trusted rows look like: for rows that were picked by
    hand, so many of each class say, where the tests have the shares of the data."""

    def __post_init__(self) -> None:
        if self.class_shares not in get_args(ClassShares):
            raise InputError(
                f"class_shares is {self.class_shares!r}; expected 'trusted' or 'data'."
            )
        limits = {
            "sharpness": (0, float("inf")),
            "memory": (0, 0.99),
            "ridge": (1e-9, float("inf")),
            "update_every": (1, float("inf")),
            "max_updates": (1, float("inf")),
            "explore": (0.01, 0.9),
        }
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            kind = int if name in ("update_every", "max_updates") else int | float
            is_number = isinstance(value, kind) and not isinstance(value, bool)
            if not is_number or not isfinite(value) or not low <= value <= high:
                expected = f"a {'whole ' if kind is int else ''}number in [{low:g}, {high:g}]"
                raise InputError(f"{name} is {value!r}; expected {expected}.")


class TrustedPolicy:
    """Rates rows by the reward that trusted ones teach; draws are made by its table.

    Args:
        config: its settings.
        is_trusted: bool `[N]`.
        seed: of draws.
    """

    has_own_signals = False
    precision = torch.float32
    reads = ("logits", "features", "labels", "uncertainty")

    def __init__(self, config: TrustedConfig, is_trusted: Tensor, *, seed: int) -> None:
        if not isinstance(config, TrustedConfig):
            raise InputError(
                f"config is {type(config).__name__}; with trusted rows a TrustedConfig(...) of "
                "data_agent.trusted is expected."
            )
        self.config = config
        self.reward = TrustedReward(
            is_trusted, seed=seed, ridge=config.ridge, class_shares=config.class_shares
        )
        self.cadence = Cadence(config.update_every, fewest_rows=1, most_updates=config.max_updates)
        self.num_updates = 0
        self._num_trusted = int(is_trusted.sum())
        self._reduced = Reduced(seed)
        self._parts: tuple[str, ...] | None = None  # of a batch, as the first one brought them

    def examine(self, feedback: Feedback) -> Feedback:
        """A batch as `act` shall see it: with features of at most `MAX_FEATURES` columns.

        Raises:
            InputError: it brings other things than batches before it, so that rows would not
                compare.
        """
        feedback = self._reduced(feedback)
        parts = tuple(name for name in self.reads if getattr(feedback, name) is not None)
        if feedback.features is not None:
            parts = (*parts, f"{feedback.features.shape[1]} wide")
        if self._parts is not None and parts != self._parts:
            raise InputError(
                f"this batch brings {_listed(parts)}, those before it {_listed(self._parts)}: "
                "what trusted rows and others are compared by must be the same in every batch. "
                "Pass the same of logits=, labels=, features=, uncertainty= each time."
            )
        self._parts = parts
        return feedback

    def act(self, feedback: Feedback, uniform: Tensor, *, epoch: int) -> tuple[Tensor]:
        """Rate rows, and keep of them what the next regression may learn from.

        Args:
            feedback: the rows of one or several batches, as `examine` returned them.
            uniform: bool `[M]` on the host, samples that were drawn uniformly.
            epoch: in which they came.

        Returns:
            D, float32 `[M]` on the host.
        """
        del epoch
        return (self.reward.rate(feedback, uniform, self.cadence.steps_of(feedback.sizes)),)

    def count_step(self, rows_a_step: int, total_rows: int) -> bool:
        """Count a batch; whether a regression is due, at the same step on every rank."""
        return self.cadence.count(rows_a_step, total_rows)

    def update(self, progress: float) -> None:
        """Learn from late rows; a collective call on several ranks."""
        del progress
        self.num_updates += self.reward.update()

    def metrics(self) -> dict[str, float]:
        """Number of trusted rows and of regressions, and how well they tell rows apart."""
        return {
            "trusted_rows": float(self._num_trusted),
            "policy_updates": float(self.num_updates),
            **self.reward.metrics(),
        }

    def describe(self) -> str:
        """The reward, and what it learned: "trusted examples (500 rows): more of class 3"."""
        return f"trusted examples ({self._num_trusted} rows): {self.reward.in_words()}"

    def settings(self) -> dict[str, Any]:
        """The configuration."""
        return {"trusted": asdict(self.config)}

    def state_dict(self) -> dict[str, Any]:
        """Reward and counters; a collective call on several ranks."""
        return {
            "reward": self.reward.state_dict(),
            "num_updates": self.num_updates,
            **self.cadence.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.cadence.load_state_dict(state)
        self.num_updates = int(state["num_updates"])
        self._parts = None
        self.reward.load_state_dict(state["reward"])


class Reduced:
    """Feedback with features of at most `MAX_FEATURES` columns, by a fixed random projection.

    Args:
        seed: of the projection.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._projection: Tensor | None = None

    def __call__(self, feedback: Feedback) -> Feedback:
        """The same feedback, its features float32 `[B, D]`; without features as it is."""
        if feedback.features is None:
            return feedback
        features, matrix = feedback.features.float(), self._projection
        width = features.shape[1]
        if width > MAX_FEATURES:
            if matrix is None or len(matrix) != width:
                matrix = projection(width, MAX_FEATURES, self._seed)
            self._projection = matrix = matrix.to(features.device)
            features = features @ matrix
        return feedback.having(features=features)


def _listed(parts: tuple[str, ...]) -> str:
    return ", ".join(parts) if parts else "losses alone"
