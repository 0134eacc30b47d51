"""The agent with one part of its default taken away at a time, as methods of a comparison.

PYTHONPATH=benchmarks data-agent compare --suite core --seeds 3 --output runs/ablations
--methods random,data-agent,ablations:NoBalance,ablations:NoSuspects,ablations:AllPolicy
"""

from __future__ import annotations

from typing import Any, ClassVar

from data_agent import DataAgent, DataAgentConfig


class Ablated(DataAgent):
    """The agent with settings other than the default's."""

    changes: ClassVar[dict[str, Any]] = {}

    def __init__(self, **base: Any) -> None:
        super().__init__(config=DataAgentConfig(**self.changes), **base)


class NoBalance(Ablated):
    """Classes come as they are."""

    name = "no-balance"
    changes: ClassVar[dict[str, Any]] = {"class_balance": False}


class NoSuspects(Ablated):
    """Every label is believed."""

    name = "no-suspects"
    changes: ClassVar[dict[str, Any]] = {"drop_suspects": False}


class QuarterPolicy(Ablated):
    """Within classes the policy ranks a quarter of what is chosen."""

    name = "quarter-policy"
    changes: ClassVar[dict[str, Any]] = {"policy_share": 0.25}


class AllPolicy(Ablated):
    """Within classes the policy ranks all but the explored tenth, until the final phase."""

    name = "all-policy"
    changes: ClassVar[dict[str, Any]] = {"policy_share": 1.0}


class ExactFinal(Ablated):
    """The final phase is uniform over everything: all classes as they are, all labels believed."""

    name = "exact-final"
    changes: ClassVar[dict[str, Any]] = {"schedule": "exact"}


class WithoutLabels(Ablated):
    """What is left where no labels come: the policy ranks, the final phase is uniform."""

    name = "without-labels"
    changes: ClassVar[dict[str, Any]] = {
        "class_balance": False,
        "drop_suspects": False,
        "policy_share": 1.0,
        "schedule": "exact",
    }
