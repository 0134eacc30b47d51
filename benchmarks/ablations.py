"""The agent with one part taken away at a time, as methods of a comparison.

PYTHONPATH=benchmarks data-agent compare --suite core --seeds 3 --output runs/ablations
--methods random,data-agent,ablations:NoBalance,ablations:NoSuspects,ablations:AllPolicy

The first classes take parts from the default, which uses labels. Those from `WithoutLabels` on take
parts from what is left where none come: there the policy ranks, as in the paper.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any, ClassVar

import torch
from torch import Tensor

from data_agent import DataAgent, DataAgentConfig, Feedback, SelectionSchedule
from data_agent.agent.reward import adaptive_weights, difficulty, uncertainty, utility
from data_agent.budget.composition import Composition
from data_agent.budget.schedule import EpochPlan
from data_agent.runtime.topk import top_k_mask


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


class WithoutLabelsButOne(Ablated):
    """One more setting changed."""

    def __init_subclass__(cls) -> None:
        cls.changes = {**WithoutLabels.changes, **cls.changes}


class DirectUtility(WithoutLabelsButOne):
    """No policy: samples are ranked by the utility of their last visit itself."""

    name = "direct-utility"
    changes: ClassVar[dict[str, Any]] = {"ranking": "last-action"}

    def record(self, feedback: Feedback) -> Tensor:
        """The utility goes to the table in the place of an action."""
        rows = super().record(feedback)
        signals = difficulty(feedback), uncertainty(feedback)
        both = torch.stack(signals).float()
        rows[:, 0] = utility(both, adaptive_weights(both))
        return rows


class DifficultyAlone(WithoutLabelsButOne):
    """Rewarded by the loss only."""

    name = "difficulty-alone"
    changes: ClassVar[dict[str, Any]] = {"signals": (difficulty,)}


class UncertaintyAlone(WithoutLabelsButOne):
    """Rewarded by the entropy only."""

    name = "uncertainty-alone"
    changes: ClassVar[dict[str, Any]] = {"signals": (uncertainty,)}


def equal_parts(feedback: Feedback) -> Tensor:
    """Both signals at the fixed weight of a half."""
    return (difficulty(feedback) + uncertainty(feedback)) / 2


class FixedWeight(WithoutLabelsButOne):
    """Both signals at the fixed weight of a half, in the place of the adaptive one."""

    name = "fixed-weight"
    changes: ClassVar[dict[str, Any]] = {"signals": (equal_parts,)}


class PlainReward(WithoutLabelsButOne):
    """The paper's reward a u, in the place of the centred one."""

    name = "plain-reward"
    changes: ClassVar[dict[str, Any]] = {"reward": "paper"}


class LastAction(WithoutLabelsButOne):
    """Ranked by the action of the last visit, as in the paper, in the place of a fresh draw."""

    name = "last-action"
    changes: ClassVar[dict[str, Any]] = {"ranking": "last-action"}


class NoExplore(WithoutLabelsButOne):
    """Nothing of a selected epoch is drawn uniformly."""

    name = "no-explore"
    changes: ClassVar[dict[str, Any]] = {"explore": 0.0}


class NoDrift(WithoutLabelsButOne):
    """What was not visited keeps its old parameters."""

    name = "no-drift"
    changes: ClassVar[dict[str, Any]] = {"drift": 0.0}


class NoEntropyBonus(WithoutLabelsButOne):
    """Nothing keeps the policy random."""

    name = "no-entropy-bonus"
    changes: ClassVar[dict[str, Any]] = {"entropy_bonus": 0.0}


class NoFinalPhase(WithoutLabelsButOne):
    """The policy ranks to the end."""

    name = "no-final-phase"
    changes: ClassVar[dict[str, Any]] = {"schedule": "to-the-end"}

    def choose(self, epoch: int, count: int, excluded: Tensor) -> Tensor:
        """By highest action, whatever the phase."""
        scores = self._table.scores(epoch)
        return top_k_mask(scores, count, tie_seed=epoch, excluded=excluded).nonzero().squeeze(1)


class ScheduleWithoutWarmUp(SelectionSchedule):
    """Selects from the first epoch on."""

    __slots__ = ()

    def plan(self, epoch: int) -> EpochPlan:
        """As of a selected epoch in the place of the warm-up."""
        plan = super().plan(epoch)
        return self._selected_plan() if plan.phase == "warm-up" else plan


class NoWarmUp(WithoutLabelsButOne):
    """No pass over everything: what was not seen yet has the prior's action."""

    name = "no-warm-up"

    def __init__(self, **base: Any) -> None:
        super().__init__(**base)
        same = {field.name: getattr(self.schedule, field.name) for field in fields(self.schedule)}
        self.schedule = ScheduleWithoutWarmUp(**same)
        self._composition = Composition(self.schedule, self.seed)
