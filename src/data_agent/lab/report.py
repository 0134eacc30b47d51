"""What the runs in a folder show, from what they wrote alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_agent.lab.methods import FULL, FULL_SHORT
from data_agent.lab.records import Group, Record, read_groups
from data_agent.lab.statistics import (
    Estimate,
    Spread,
    bootstrap_mean,
    estimate,
    mean_ranks,
    paired_difference,
)

RANDOM = "random"
CONTROLS = (FULL, FULL_SHORT, RANDOM)

_Runs = Mapping[str, Mapping[int, Record]]  # by method and seed


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One method on one task at one budget.

    Args:
        method: its name.
        value: metric of the last epoch, in percent, over seeds.
        to_full: difference to full training, paired by seed, in points; None where there is none.
        to_full_short: the same to the short control.
        to_random: the same to random choice.
        cost: (forward visits + 2 x backward visits) / (3 N E), a share of full training.
        time: training time relative to full training of the same seed; see `Cell.clock`.
        overhead: share of the training time spent on selecting, the making of scores included.
        cost_to_reach: cost at the first evaluation whose mean over seeds reaches what full-short
            ends with, as a share of full training; None if there is none.
        by_seed: the metric of each seed.
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """The methods on one task at one budget.

    Args:
        task: the task's name.
        keep_ratio: the budget, in (0, 1].
        rows: the controls, then the other methods by their metric.
        clock: what `Row.time` was measured on: "wall-clock", or "processor time" where several
            runs shared the machine.
        one_machine: whether all runs computed on the same kind of machine.
    """

    task: str
    keep_ratio: float
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
        return gain.mean > gain.half_width


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One task: its recipe and its budgets.

    Args:
        name: its name.
        config: its recipe.
        facts: the numbers of samples, and where the evaluation samples come from.
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
        to_random: mean over tasks of the difference to random choice, in points.
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
        standings: the best rank first.
    """

    keep_ratio: float
    tasks: list[str]
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


def summarise(folder: Path) -> Report:
    """Read all runs under a folder, however deep, and compare those of one recipe.

    Raises:
        InputError: none has finished, a file is damaged, or a run is there twice.
    """
    groups, unfinished = read_groups(folder)
    tasks = [_task(group) for group in groups]
    sessions = [
        session for group in groups for record in group.records for session in record.sessions
    ]
    return Report(
        tasks=tasks,
        across=_across(tasks) if len(tasks) > 1 else [],
        unfinished=[str(path.relative_to(folder)) for path in unfinished],
        environment=_environment(sessions),
    )


def _task(group: Group) -> Task:
    result = group.records[0].result
    names = ("num_train_samples", "num_noisy_labels", "num_eval_samples", "evaluation")
    return Task(
        name=group.name,
        config=dict(group.config),
        facts={name: result[name] for name in names},
        cells=[_cell(group, ratio) for ratio in group.keep_ratios()],
    )


def _cell(group: Group, keep_ratio: float) -> Cell:
    runs = group.at(keep_ratio)
    sessions = [
        session
        for by_seed in runs.values()
        for record in by_seed.values()
        for session in record.sessions
    ]
    is_parallel = any(session.get("jobs", 1) > 1 for session in sessions)
    seconds = "train_cpu_seconds" if is_parallel else "train_seconds"
    rows = [_row(method, runs, seconds, epochs=group.config["epochs"]) for method in runs]
    machine = ("cpu", "gpu", "num_threads", "device")
    return Cell(
        task=group.name,
        keep_ratio=keep_ratio,
        rows=sorted(rows, key=_place),
        clock="processor time" if is_parallel else "wall-clock",
        one_machine=len({tuple(session[name] for name in machine) for session in sessions}) == 1,
    )


def _place(row: Row) -> tuple[int, float]:
    """Controls first, then from the best to the worst."""
    order = CONTROLS.index(row.method) if row.method in CONTROLS else len(CONTROLS)
    return order, -row.value.mean


def _row(method: str, runs: _Runs, seconds: str, *, epochs: int) -> Row:
    mine, full = runs[method], runs.get(FULL, {})

    def values(of: str) -> dict[int, float]:
        return {seed: record.value for seed, record in runs.get(of, {}).items()}

    def difference(to: str) -> Estimate | None:
        return None if method == to else paired_difference(values(method), values(to))

    times = [
        record.result[seconds] / full[seed].result[seconds]
        for seed, record in mine.items()
        if seed in full and method != FULL
    ]
    results = [record.result for record in mine.values()]
    target = values(FULL_SHORT)
    return Row(
        method=method,
        value=estimate(list(values(method).values())),
        to_full=difference(FULL),
        to_full_short=difference(FULL_SHORT),
        to_random=difference(RANDOM),
        cost=sum(result["cost"] for result in results) / len(results),
        time=estimate(times) if times else None,
        overhead=sum(result["overhead_seconds"] for result in results)
        / sum(result["train_seconds"] for result in results),
        cost_to_reach=_cost_to_reach(
            estimate(list(target.values())).mean, list(mine.values()), epochs=epochs
        )
        if target
        else None,
        by_seed=values(method),
    )


def _cost_to_reach(target: float, records: Sequence[Record], *, epochs: int) -> float | None:
    """The mean cost at the first evaluation whose mean over seeds is `target` or more."""
    for lines in zip(*(record.evaluations for record in records), strict=False):
        if estimate([line["accuracy"] for line in lines]).mean >= target:
            visits = [line["num_forward"] + 2 * line["num_backward"] for line in lines]
            num_samples = records[0].result["num_train_samples"]
            return sum(visits) / len(visits) / (3 * num_samples * epochs)
    return None


def _across(tasks: Sequence[Task]) -> list[Across]:
    ratios = {cell.keep_ratio for task in tasks for cell in task.cells}
    return [
        _across_at(
            ratio, [cell for task in tasks for cell in task.cells if cell.keep_ratio == ratio]
        )
        for ratio in sorted(ratios, reverse=True)
    ]


def _across_at(keep_ratio: float, cells: Sequence[Cell]) -> Across:
    everywhere = set.intersection(*({row.method for row in cell.rows} for cell in cells))
    ranks = [
        mean_ranks({row.method: row.by_seed for row in cell.rows if row.method in everywhere})
        for cell in cells
    ]
    methods = dict.fromkeys(row.method for cell in cells for row in cell.rows)

    def rank(method: str) -> float | None:
        known = [by_method for by_method in ranks if by_method is not None]
        if method not in everywhere or len(known) < len(cells):
            return None
        return sum(by_method[method] for by_method in known) / len(known)

    def spread(method: str, difference: Callable[[Row], Estimate | None]) -> Spread | None:
        rows = [row for cell in cells if (row := cell.row(method)) is not None]
        means = [value.mean for row in rows if (value := difference(row)) is not None]
        return bootstrap_mean(means) if means else None

    standings = [
        Standing(
            method=method,
            rank=rank(method),
            to_random=spread(method, lambda row: row.to_random),
            to_full_short=spread(method, lambda row: row.to_full_short),
        )
        for method in methods
    ]
    standings.sort(key=lambda standing: (standing.rank is None, standing.rank or 0.0))
    return Across(keep_ratio=keep_ratio, tasks=[cell.task for cell in cells], standings=standings)


def _environment(sessions: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    fields = {
        "command": ("command",),
        "commit": ("commit",),
        "processor": ("cpu", "num_cpus", "num_threads", "jobs"),
        "accelerator": ("gpu",),
        "system": ("platform",),
        "versions": ("data_agent", "torch", "numpy", "python"),
    }
    complete = [{"jobs": 1, **session} for session in sessions]  # older versions had one at a time
    return {title: _distinct(complete, names) for title, names in fields.items()}


def _distinct(sessions: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    """The different values that sessions have of these fields, in order."""
    texts = [
        ", ".join(
            f"{name} {session[name]}" if len(names) > 1 else str(session[name]) for name in names
        )
        for session in sessions
    ]
    return list(dict.fromkeys(texts))
