"""What a report holds: methods, on tasks, at budgets. comparison.json is these classes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from data_agent_lab.methods import FULL, FULL_SHORT
from data_agent_lab.results.records import Metric
from data_agent_lab.results.statistics import FEWEST_SEEDS, Estimate, Spread

RANDOM = "random"
CONTROLS = (FULL, FULL_SHORT, RANDOM)


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """A metric of one method over seeds, and differences to the controls, paired by seed."""

    value: Estimate
    to_full: Estimate | None
    to_full_short: Estimate | None
    to_random: Estimate | None


@dataclass(frozen=True, kw_only=True, slots=True)
class OtherMetric(Compared):
    """Another metric of the same models.

    Args:
        metric: what it is.
        num_items: how many items were evaluated; None where that is not told.
        num_cut: how many of them did not fit into the model's context whole.
    """

    metric: Metric
    num_items: int | None
    num_cut: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Row(Compared):
    """One method on one task at one budget, by the metric of the last epoch.

    Args:
        method: its name.
        cost: (forward visits + 2 x backward visits) / (3 N E), a share of full training.
        time: training time relative to full training of the same seed; see `Cell.clock`.
        overhead: share of the training time spent on selecting, the making of scores included.
        cost_to_reach: cost at the first evaluation whose mean over seeds reaches what full-short
            ends with, as a share of full training; None if there is none.
        by_seed: the metric of each seed.
        token_cost: as the cost, counted in tokens; None where samples are no sequences.
        other_metrics: by name.
    """

    method: str
    cost: float
    time: Estimate | None
    overhead: float
    cost_to_reach: float | None
    by_seed: dict[int, float]
    token_cost: float | None
    other_metrics: dict[str, OtherMetric]


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
        num_eval_samples: on how many samples the metric was measured.
    """

    task: str
    keep_ratio: float
    metric: Metric
    rows: list[Row]
    clock: str
    one_machine: bool
    num_eval_samples: int

    def row(self, method: str) -> Row | None:
        """The row of a method, if it is there."""
        return next((row for row in self.rows if row.method == method), None)

    @property
    def gain(self) -> Estimate | None:
        """The difference of full training to full-short; None without both."""
        full = self.row(FULL)
        return None if full is None else full.to_full_short

    @property
    def sampling_error(self) -> float | None:
        """95 % half-width of the gain due to the choice of evaluation samples; accuracies only.

        Binomial, as if the two were evaluated on different samples: on the same ones it is smaller.
        More seeds do not lower it, as all of them are evaluated on the same samples.
        """
        rows = [row for row in (self.row(FULL), self.row(FULL_SHORT)) if row is not None]
        if (self.metric.name, self.metric.unit) != ("accuracy", "%") or len(rows) < 2:
            return None
        shares = [row.value.mean / 100 for row in rows]
        variance = sum(share * (1 - share) for share in shares) / self.num_eval_samples
        return 100 * 1.96 * math.sqrt(variance)

    @property
    def tells_apart(self) -> bool | None:
        """Whether full training beats full-short by more than seeds and samples explain.

        Where it does not, the budget is enough, and a method can mostly show that it does no harm
        (with wrong labels, also that it leaves out what does). None of fewer than three seeds.
        """
        if self.gain is None or self.gain.half_width is None or self.gain.count < FEWEST_SEEDS:
            return None
        error = math.hypot(self.gain.half_width, self.sampling_error or 0.0)
        return self.metric.sign * self.gain.mean > error


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One task: its recipe, facts about its samples, and a cell a keep ratio, the largest first."""

    name: str
    config: dict[str, Any]
    facts: dict[str, Any]
    cells: list[Cell]


@dataclass(frozen=True, kw_only=True, slots=True)
class MethodOverTasks:
    """One method over all tasks at one budget.

    Args:
        method: its name.
        rank: its rank among the methods that all of `OverTasks.ranked` have, 1 is best, averaged
            over seeds and then tasks; None if it is missing somewhere.
        to_random: mean over `OverTasks.averaged` of the difference to random choice.
        to_full_short: the same to the short control.
    """

    method: str
    rank: float | None
    to_random: Spread | None
    to_full_short: Spread | None


@dataclass(frozen=True, kw_only=True, slots=True)
class OverTasks:
    """All methods over all tasks at one budget.

    Args:
        keep_ratio: the budget, in (0, 1].
        tasks: names of the tasks that have it.
        ranked: names of those on which two methods or more ran.
        metric: the one that most of them measure, of equals the first: what differences are in.
        averaged: names of the tasks that measure it; points and nats have no common mean.
        methods: the best rank first.
    """

    keep_ratio: float
    tasks: list[str]
    ranked: list[str]
    metric: Metric
    averaged: list[str]
    methods: list[MethodOverTasks]


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """Everything that the runs show.

    Args:
        tasks: by name.
        over_tasks: by keep ratio, the largest first; empty with a single task.
        unfinished: folders of runs that have not finished.
        relabelled: methods that have another name than when they ran, and why.
        environment: by title, the different machines, versions and commands of all sessions.
    """

    tasks: list[Task]
    over_tasks: list[OverTasks]
    unfinished: list[str]
    relabelled: list[str]
    environment: dict[str, list[str]]
