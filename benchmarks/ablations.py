"""The agent with one part taken away at a time: a grid of settings, each a method of a comparison.

PYTHONPATH=benchmarks data-agent compare --suite core --seeds 3 --output runs/ablations
--methods random,data-agent,ablations:difficulty-alone,ablations:no-explore

Names are those of `POLICY` (what the policy is made of), `TRUSTED` (how trusted rows are learned
from) and `RULES` (what label rules bring). What is no setting of the agent is a small class at the
end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from functools import partial
from typing import Any

import torch
from torch import Tensor

from data_agent import DataAgent, DataAgentConfig, Feedback, Selector
from data_agent.agent.reward import adaptive_weights, difficulty, uncertainty, utility
from data_agent.labels import LabelRules
from data_agent.methods import method_class
from data_agent.trusted import TrustedConfig


def equal_parts(feedback: Feedback) -> Tensor:
    """Both signals at the fixed weight of a half, in the place of the adaptive one."""
    return (difficulty(feedback) + uncertainty(feedback)) / 2


def vars_of(config: DataAgentConfig) -> dict[str, Any]:
    """The settings of a configuration by name."""
    return {field.name: getattr(config, field.name) for field in fields(config)}


POLICY: Mapping[str, Mapping[str, Any]] = {
    "difficulty-alone": {"signals": (difficulty,)},
    "uncertainty-alone": {"signals": (uncertainty,)},
    "fixed-weight": {"signals": (equal_parts,)},
    "plain-reward": {"reward": "paper"},
    "last-action": {"ranking": "last-action"},
    "no-explore": {"explore": 0.0},
    "no-drift": {"drift": 0.0},
    "no-entropy-bonus": {"entropy_bonus": 0.0},
    "unbounded-updates": {"max_updates": 10**9},  # every ten steps, however long the run is
    "policy-with-rules": {"label_rules": LabelRules(), "schedule": "to-the-end"},
    "as-published": vars_of(DataAgentConfig.paper()),
}
"""Settings of `DataAgentConfig` other than the defaults."""

TRUSTED: Mapping[str, Mapping[str, Any]] = {"class-shares-of-data": {"class_shares": "data"}}
"""Settings of `TrustedConfig` other than the defaults."""

RULES: Mapping[str, Mapping[str, Any]] = {
    "no-class-shares": {"label_rules": LabelRules(class_shares=False)},
    "no-doubtful-labels": {"label_rules": LabelRules(doubtful_labels=False)},
    "exact-final": {"schedule": "exact"},
}
"""Arguments of the method label-aware other than the defaults."""


class DirectUtility(DataAgent):
    """No policy: samples are ranked by the utility of their last visit itself."""

    name = "direct-utility"

    def __init__(self, **base: Any) -> None:
        super().__init__(config=DataAgentConfig(ranking="last-action"), **base)

    def record(self, feedback: Feedback) -> Tensor:
        """The utility goes to the table in the place of an action."""
        rows = super().record(feedback)
        both = torch.stack([difficulty(feedback), uncertainty(feedback)]).float()
        rows[:, 0] = utility(both, adaptive_weights(both))
        return rows


class PolicyToTheEnd(DataAgent):
    """The policy ranks in the final phase too."""

    name = "policy-to-the-end"

    def __init__(self, **base: Any) -> None:
        super().__init__(config=DataAgentConfig(schedule="to-the-end"), **base)
        self._turns = None


def _with(method: type[Selector], name: str, **options: Any) -> type[Selector]:
    """The method with other options, as a class of its own name."""
    return type(name, (method,), {"name": name, "__init__": _initialised(method, options)})


def _initialised(method: type[Selector], options: dict[str, Any]) -> Any:
    def init(self: Any, **base: Any) -> None:
        partial(method.__init__, self, **options)(**base)

    return init


def __getattr__(name: str) -> type[Selector]:
    """The method that a grid calls `name`: what `ablations:NAME` on the command line finds."""
    if name in POLICY:
        return _with(DataAgent, name, config=DataAgentConfig(**POLICY[name]))
    if name in TRUSTED:
        return _with(DataAgent, name, config=TrustedConfig(**TRUSTED[name]))
    if name in RULES:
        return _with(method_class("label-aware"), name, **RULES[name])
    raise AttributeError(f"{name!r} is none of {', '.join([*POLICY, *TRUSTED, *RULES])}")
