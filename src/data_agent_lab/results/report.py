"""What the runs in a folder show, from what they wrote alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_agent.errors import InputError
from data_agent_lab.methods import FULL, FULL_SHORT
from data_agent_lab.results.findings import (
    CONTROLS,
    RANDOM,
    Across,
    Cell,
    Further,
    Report,
    Row,
    Standing,
    Task,
)
from data_agent_lab.results.groups import Group, read_groups
from data_agent_lab.results.records import Measurement, Metric, Record, value_of
from data_agent_lab.results.statistics import (
    Estimate,
    Spread,
    bootstrap_mean,
    estimate,
    mean_ranks,
    paired_difference,
)

_Runs = Mapping[str, Mapping[int, Record]]  # by method and seed


def summarise(source: Path) -> Report:
    """Read all runs of a folder, however deep, or of an archive; compare those of one recipe.

    Raises:
        InputError: none has finished, a file is damaged, or a run is there twice.
    """
    groups, unfinished = read_groups(source)
    tasks = [_task(group) for group in groups]
    sessions = [
        session for group in groups for record in group.records for session in record.environment
    ]
    return Report(
        tasks=tasks,
        across=_across(tasks) if len(tasks) > 1 else [],
        unfinished=[str(path.relative_to(source)) for path in unfinished],
        environment=_environment(sessions),
    )


def _task(group: Group) -> Task:
    result = group.records[0].result
    names = ("num_train_samples", "num_noisy_labels", "num_eval_samples", "evaluation", "dropped")
    return Task(
        name=group.name,
        config=dict(group.config),
        facts={name: result[name] for name in names if name in result},
        cells=[_cell(group, ratio) for ratio in group.keep_ratios()],
    )


def _cell(group: Group, keep_ratio: float) -> Cell:
    runs = group.at(keep_ratio)
    sessions = [
        session
        for by_seed in runs.values()
        for record in by_seed.values()
        for session in record.environment
    ]
    is_parallel = any(session.get("jobs", 1) > 1 for session in sessions)
    seconds = "train_cpu_seconds" if is_parallel else "train_seconds"
    metric = _metric_of(group)
    rows = [_row(m, runs, seconds, metric=metric, epochs=group.config["epochs"]) for m in runs]
    machine = ("cpu", "gpu", "num_threads", "device")
    return Cell(
        task=group.name,
        keep_ratio=keep_ratio,
        metric=metric,
        rows=sorted(rows, key=lambda row: _place(row, metric)),
        clock="processor time" if is_parallel else "wall-clock",
        one_machine=len({tuple(session[name] for name in machine) for session in sessions}) == 1,
    )


def _metric_of(group: Group) -> Metric:
    """The one metric of a recipe's runs.

    Raises:
        InputError: they measure several, or one of the further ones differently.
    """
    records = group.records
    _check_one({_in_full(record.metric): record.path for record in records})
    for name in sorted({name for record in records for name in record.other_metrics}):
        _check_one(
            {
                _in_full(found.metric, found.num_items): record.path
                for record in records
                if (found := record.other_metrics.get(name)) is not None
            }
        )
    return records[0].metric


def _in_full(metric: Metric, num_items: int | None = None) -> str:
    items = "" if num_items is None else f" on {num_items:,} items"
    return f"{metric.in_words()}{items} ({metric.direction} is better)"


def _check_one(found: Mapping[str, Path]) -> None:
    if len(found) > 1:
        (one, first), (other, second), *_ = found.items()
        raise InputError(
            f"{first} measures {one}, {second} measures {other}, but they are runs of one recipe "
            "and cannot be compared. Report on a folder that holds one kind of them."
        )


def _place(row: Row, metric: Metric) -> tuple[int, float]:
    """Controls first, then from the best to the worst."""
    order = CONTROLS.index(row.method) if row.method in CONTROLS else len(CONTROLS)
    return order, -metric.sign * row.value.mean


def _row(method: str, runs: _Runs, seconds: str, *, metric: Metric, epochs: int) -> Row:
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
            estimate(list(target.values())).mean, list(mine.values()), metric=metric, epochs=epochs
        )
        if target
        else None,
        by_seed=values(method),
        token_cost=_mean_token_cost(results),
        further=_further(method, runs),
    )


def _mean_token_cost(results: Sequence[Mapping[str, Any]]) -> float | None:
    costs = [result["token_cost"] for result in results if result.get("token_cost") is not None]
    return sum(costs) / len(costs) if costs else None


def _further(method: str, runs: _Runs) -> dict[str, Further]:
    """What else a method's runs were measured by, by name."""
    names = dict.fromkeys(name for record in runs[method].values() for name in record.other_metrics)
    return {name: _further_metric(name, method, runs) for name in names}


def _further_metric(name: str, method: str, runs: _Runs) -> Further:
    def found(of: str) -> dict[int, Measurement]:
        by_seed = {seed: record.other_metrics for seed, record in runs.get(of, {}).items()}
        return {seed: further[name] for seed, further in by_seed.items() if name in further}

    def values(of: str) -> dict[int, float]:
        return {seed: measurement.value for seed, measurement in found(of).items()}

    def difference(to: str) -> Estimate | None:
        return None if method == to else paired_difference(values(method), values(to))

    mine = list(found(method).values())
    return Further(
        metric=mine[0].metric,
        value=estimate([measurement.value for measurement in mine]),
        to_full=difference(FULL),
        to_random=difference(RANDOM),
        num_items=mine[0].num_items,
        num_cut=max(measurement.num_cut for measurement in mine),
    )


def _cost_to_reach(
    target: float, records: Sequence[Record], *, metric: Metric, epochs: int
) -> float | None:
    """The mean cost at the first evaluation whose mean over seeds is as good as `target`."""
    for lines in zip(*(record.evaluations for record in records), strict=False):
        mean = estimate([value_of(line) or 0.0 for line in lines]).mean
        if metric.sign * mean >= metric.sign * target:
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
        mean_ranks(
            {
                row.method: {s: cell.metric.sign * value for s, value in row.by_seed.items()}
                for row in cell.rows
                if row.method in everywhere
            }
        )
        for cell in cells
    ]
    metrics = [cell.metric for cell in cells]
    metric = max(metrics, key=metrics.count)
    alike = [cell for cell in cells if cell.metric == metric]
    methods = dict.fromkeys(row.method for cell in cells for row in cell.rows)

    def rank(method: str) -> float | None:
        known = [by_method for by_method in ranks if by_method is not None]
        if method not in everywhere or len(known) < len(cells):
            return None
        return sum(by_method[method] for by_method in known) / len(known)

    def spread(method: str, difference: Callable[[Row], Estimate | None]) -> Spread | None:
        rows = [row for cell in alike if (row := cell.row(method)) is not None]
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
    return Across(
        keep_ratio=keep_ratio,
        tasks=[cell.task for cell in cells],
        metric=metric,
        averaged=[cell.task for cell in alike],
        standings=standings,
    )


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
