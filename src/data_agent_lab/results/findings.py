"""What a report holds: methods, on tasks, at budgets. comparison.json is these classes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from data_agent_lab.methods import FULL, FULL_SHORT, RANDOM
from data_agent_lab.results.statistics import FEWEST_SEEDS, Estimate, Spread
from data_agent_lab.runs.result import Metric

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
    """Another metric of the same models."""

    metric: Metric
    num_items: int | None  # evaluated; None where that is not told
    num_cut: int  # of them, those that did not fit into the model's context whole


@dataclass(frozen=True, kw_only=True, slots=True)
class OfClass:
    """The accuracy of one method on the evaluation samples of one class, in percent."""

    mean: float  # over seeds
    to_full: Estimate | None
    to_random: Estimate | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Row(Compared):
    """One method on one task at one budget, by the metric of the last epoch."""

    method: str
    cost: float  # (forward + 2 x backward visits) / (3 N E), a share of full training
    time: Estimate | None  # relative to full training of the same seed, by the cell's clock
    overhead: float  # share of the training time spent on selecting, scores included
    cost_to_reach: float | None  # at the first evaluation as good as what full-short ends with
    by_seed: dict[int, float]
    token_cost: float | None  # as the cost, in tokens; None where samples are no sequences
    other_metrics: dict[str, OtherMetric]  # by name
    classes: dict[str, OfClass]  # by name, where runs tell them


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """The methods on one task at one budget."""

    task: str
    keep_ratio: float
    metric: Metric
    rows: list[Row]  # the controls, then the other methods from the best to the worst
    clock: str  # "wall-clock", or "processor time" where several runs shared the machine
    one_machine: bool  # all runs computed on the same kind of machine
    num_eval_samples: int

    def row(self, method: str) -> Row | None:
        """The row of a method, if it is there."""
        return next((row for row in self.rows if row.method == method), None)

    @property
    def gain(self) -> Estimate | None:
        """The difference of full training to full-short; None without both."""
        return None if (full := self.row(FULL)) is None else full.to_full_short

    @property
    def sampling_error(self) -> float | None:
        """95 % half-width of the gain due to the choice of evaluation samples; accuracies only.

        Binomial, as if the two were evaluated on different samples: on the same ones it is smaller.
        More seeds do not lower it, as all of them are evaluated on the same samples.
        """
        shares = [row.value.mean / 100 for row in self.rows if row.method in (FULL, FULL_SHORT)]
        if (self.metric.name, self.metric.unit) != ("accuracy", "%") or len(shares) < 2:
            return None
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
    """One method over all tasks at one budget."""

    method: str
    rank: float | None  # 1 is best, over seeds and then `ranked`; None if it is missing in one
    to_random: Spread | None  # mean difference over `averaged`
    to_full_short: Spread | None


@dataclass(frozen=True, kw_only=True, slots=True)
class OverTasks:
    """All methods over all tasks at one budget."""

    keep_ratio: float
    tasks: list[str]
    ranked: list[str]  # tasks on which two methods or more ran
    metric: Metric  # the one that most tasks measure, of equals the first
    averaged: list[str]  # tasks that measure it; points and nats have no common mean
    methods: list[MethodOverTasks]  # the best rank first


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """Everything that the runs show."""

    tasks: list[Task]  # by name
    over_tasks: list[OverTasks]  # by keep ratio, the largest first; empty with a single task
    unfinished: list[str]  # folders of runs
    relabelled: list[str]  # methods that have another name than when they ran, and why
    environment: dict[str, list[str]]  # the different machines, versions and commands, by title
