"""What a report holds: methods, on tasks, at budgets."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from data_agent_lab.methods import FULL, FULL_SHORT
from data_agent_lab.results.records import Metric
from data_agent_lab.results.statistics import Estimate, Spread

RANDOM = "random"
CONTROLS = (FULL, FULL_SHORT, RANDOM)


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One method on one task at one budget.

    Args:
        method: its name.
        value: metric of the last epoch, in its unit, over seeds.
        to_full: difference to full training, paired by seed, in that unit; None without any.
        to_full_short: the same to the short control.
        to_random: the same to random choice.
        cost: (forward visits + 2 x backward visits) / (3 N E), a share of full training.
        time: training time relative to full training of the same seed; see `Cell.clock`.
        overhead: share of the training time spent on selecting, the making of scores included.
        cost_to_reach: cost at the first evaluation whose mean over seeds reaches what full-short
            ends with, as a share of full training; None if there is none.
        by_seed: the metric of each seed.
        token_cost: as the cost, counted in tokens; None where samples are no sequences.
        further: the other metrics of the trained models, by name.
    """

    method: str
    value: Estimate
    to_full: Estimate | None
    to_full_short: Estimate | None
    to_random: Estimate | None
    cost: float
    time: Estimate | None
    overhead: float
    cost_to_reach: float | None
    by_seed: dict[int, float]
    token_cost: float | None = None
    further: dict[str, Further] = field(default_factory=lambda: dict[str, Further]())


@dataclass(frozen=True, kw_only=True, slots=True)
class Further:
    """Another metric of a method's trained models.

    Args:
        metric: what it is.
        value: over seeds.
        to_full: difference to full training, paired by seed; None where there is none.
        to_random: the same to random choice.
        num_items: how many items were evaluated; None where that is not told.
        num_cut: how many of them did not fit into the model's context whole.
    """

    metric: Metric
    value: Estimate
    to_full: Estimate | None
    to_random: Estimate | None
    num_items: int | None
    num_cut: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """The methods on one task at one budget.

    Args:
        task: the task's name.
        keep_ratio: the budget, in (0, 1].
        metric: what `Row.value` is.
        rows: the controls, then the other methods from the best to the worst.
        clock: what `Row.time` was measured on: "wall-clock", or "processor time" where several
            runs shared the machine.
        one_machine: whether all runs computed on the same kind of machine.
    """

    task: str
    keep_ratio: float
    metric: Metric
    rows: list[Row]
    clock: str
    one_machine: bool

    def row(self, method: str) -> Row | None:
        """The row of a method, if it is there."""
        return next((row for row in self.rows if row.method == method), None)

    @property
    def tells_apart(self) -> bool | None:
        """Whether full training beats full-short by more than the seeds' interval.

        Where it does not, the budget is enough, and a method can mostly show that it does no harm
        (with wrong labels, also that it leaves out what does). None where there is no interval.
        """
        full = self.row(FULL)
        gain = None if full is None else full.to_full_short
        if gain is None or gain.half_width is None:
            return None
        return self.metric.sign * gain.mean > gain.half_width


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One task: its recipe and its budgets.

    Args:
        name: its name.
        config: its recipe.
        facts: the numbers of samples, what was left out, where the evaluation samples come from.
        cells: one a keep ratio, the largest first.
    """

    name: str
    config: dict[str, Any]
    facts: dict[str, Any]
    cells: list[Cell]


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """One method over all tasks at one budget.

    Args:
        method: its name.
        rank: mean over tasks of the mean over seeds of its rank among the methods that all tasks
            have, 1 is best; None if it is missing somewhere.
        to_random: mean over the tasks of `Across.averaged` of the difference to random choice.
        to_full_short: the same to the short control.
    """

    method: str
    rank: float | None
    to_random: Spread | None
    to_full_short: Spread | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Across:
    """All methods over all tasks at one budget.

    Args:
        keep_ratio: the budget, in (0, 1].
        tasks: names of the tasks that have it.
        metric: the one that most of them measure, of equals the first: what differences are in.
        averaged: names of the tasks that measure it; points and nats have no common mean.
        standings: the best rank first.
    """

    keep_ratio: float
    tasks: list[str]
    metric: Metric
    averaged: list[str]
    standings: list[Standing]


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """Everything that the runs in a folder show.

    Args:
        tasks: by name.
        across: by keep ratio, the largest first; empty with a single task.
        unfinished: folders of runs that have not finished.
        environment: by title, the different machines, versions and commands of all sessions.
    """

    tasks: list[Task]
    across: list[Across]
    unfinished: list[str]
    environment: dict[str, list[str]]
