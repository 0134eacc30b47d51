"""What runs show, from what they wrote alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_agent.errors import InputError
from data_agent_lab.methods import FULL, FULL_SHORT, RANDOM
from data_agent_lab.results.findings import (
    CONTROLS,
    Cell,
    MethodOverTasks,
    OfClass,
    OtherMetric,
    OverTasks,
    Report,
    Row,
    Task,
)
from data_agent_lab.results.groups import Group, read_groups
from data_agent_lab.results.records import Record, value_of
from data_agent_lab.results.savings import savings
from data_agent_lab.results.statistics import (
    Estimate,
    Spread,
    estimate,
    mean_over_tasks,
    mean_ranks,
    paired_difference,
)
from data_agent_lab.runs.result import Metric, metric_of

_Runs = Mapping[str, Mapping[int, Record]]  # by method and seed
_FACTS = (
    *("num_train_samples", "num_noisy_labels", "num_trusted_rows", "num_eval_samples"),
    *("evaluation", "dropped"),
)
_MACHINE = ("cpu", "gpu", "num_threads", "device")
_ENVIRONMENT = {
    "command": ("command",),
    "commit": ("commit",),
    "processor": ("cpu", "num_cpus", "num_threads", "jobs"),
    "accelerator": ("gpu",),
    "system": ("platform",),
    "versions": ("data_agent", "torch", "numpy", "python"),
}


def summarise(source: Path) -> Report:
    """Read all runs of a folder, however deep, or of an archive; compare those of one recipe.

    Raises:
        InputError: none has finished, a file is damaged, or a run is there twice.
    """
    return report_of(*read_groups(source), source=source)


def report_of(groups: Sequence[Group], unfinished: Sequence[Path], *, source: Path) -> Report:
    """The report on runs that `read_groups(source)` found."""
    tasks = [_task(group) for group in groups]
    records = [record for group in groups for record in group.records]
    ratios = {cell.keep_ratio for task in tasks for cell in task.cells} if len(tasks) > 1 else ()
    return Report(
        tasks=tasks,
        over_tasks=[_over_tasks(tasks, ratio) for ratio in sorted(ratios, reverse=True)],
        unfinished=[str(path.relative_to(source)) for path in unfinished],
        relabelled=sorted({f"{r.budget[0]} ({r.relabelled})" for r in records if r.relabelled}),
        environment={title: _distinct(records, names) for title, names in _ENVIRONMENT.items()},
    )


def _distinct(records: Iterable[Record], names: Sequence[str]) -> list[str]:
    """The different values that sessions have of these fields, in order."""
    sessions = [{"jobs": 1, **session} for record in records for session in record.environment]
    label = "{0} {1}" if len(names) > 1 else "{1}"
    texts = (", ".join(label.format(name, s.get(name)) for name in names) for s in sessions)
    return list(dict.fromkeys(texts))


def _task(group: Group) -> Task:
    result = group.records[0].result
    _check_same_data(group.records)
    return Task(
        name=group.name,
        config=group.config,
        facts={name: result[name] for name in _FACTS if name in result},
        cells=[_cell(group, ratio) for ratio in group.keep_ratios()],
    )


def _check_same_data(records: Sequence[Record]) -> None:
    """Runs of one recipe are compared: they must have been trained and judged on as many samples.

    Raises:
        InputError: they were not.
    """
    first = records[0]
    for record in records:
        for name in ("num_train_samples", "num_eval_samples"):
            if record.result[name] != first.result[name]:
                raise InputError(
                    f"{first.path} has {name} {first.result[name]}, {record.path} has "
                    f"{record.result[name]}, but they are runs of one recipe: the data changed "
                    "between them. Report on a folder that holds one kind of them, and train the "
                    "others again."
                )


def _cell(group: Group, keep_ratio: float) -> Cell:
    runs = group.at(keep_ratio)
    records = [record for by_seed in runs.values() for record in by_seed.values()]
    sessions = [session for record in records for session in record.environment]
    metric = _one_metric(group.records)
    is_parallel = any(session.get("jobs", 1) > 1 for session in sessions)
    seconds = "train_cpu_seconds" if is_parallel else "train_seconds"
    rows = [_row(m, runs, seconds, metric=metric, epochs=group.config["epochs"]) for m in runs]

    def place(row: Row) -> tuple[int, float]:
        order = CONTROLS.index(row.method) if row.method in CONTROLS else len(CONTROLS)
        return order, -metric.sign * row.value.mean

    return Cell(
        task=group.name,
        keep_ratio=keep_ratio,
        metric=metric,
        rows=sorted(rows, key=place),
        clock="processor time" if is_parallel else "wall-clock",
        one_machine=len({tuple(s.get(name) for name in _MACHINE) for s in sessions}) == 1,
        num_eval_samples=min(record.result["num_eval_samples"] for record in records),
    )


def _metric(record: Record, name: str) -> Metric:
    """What is measured under a name of `Record.measured`."""
    return metric_of({"metric": name, **record.measured[name]})


def _one_metric(records: Sequence[Record]) -> Metric:
    """The metric that all runs of a recipe are compared by; they must agree on the others too."""
    seen: dict[str, tuple[str, Path]] = {}
    for record in records:
        for name, entry in record.measured.items():
            metric, num_items = _metric(record, name), entry.get("num_items")
            items = f" on {num_items:,} items" if num_items else ""
            words = f"{metric.in_words()}{items} ({metric.direction} is better)"
            first, path = seen.setdefault(name, (words, record.path))
            if words != first:
                raise InputError(
                    f"{path} measures {first}, {record.path} measures {words}, but they are runs "
                    "of one recipe and cannot be compared. Report on a folder that holds one kind "
                    "of them."
                )
    return _metric(records[0], "")


def _row(method: str, runs: _Runs, seconds: str, *, metric: Metric, epochs: int) -> Row:
    mine, full = runs[method], runs.get(FULL, {})
    results = [record.result for record in mine.values()]
    times = [
        record.result[seconds] / full[seed].result[seconds]
        for seed, record in mine.items()
        if seed in full and method != FULL
    ]
    tokens = [r["token_cost"] for r in results if r.get("token_cost") is not None]
    others = dict.fromkeys(name for record in mine.values() for name in record.measured if name)
    return Row(
        method=method,
        **_compared(method, runs, ""),
        cost=_mean([result["cost"] for result in results]),
        time=estimate(times) if times else None,
        overhead=sum(result["overhead_seconds"] for result in results)
        / sum(result["train_seconds"] for result in results),
        cost_to_reach=_cost_to_reach(method, runs, metric=metric, epochs=epochs),
        by_seed=_values(mine, ""),
        token_cost=_mean(tokens) if tokens else None,
        other_metrics={
            **{name: _other_metric(method, runs, name) for name in others},
            **_savings(mine, runs.get(RANDOM, {}), metric),
        },
        classes=_classes(method, runs),
    )


def _classes(method: str, runs: _Runs) -> dict[str, OfClass]:
    """By class the accuracy and its differences to the controls, paired by seed."""

    def of(name: str, one: str) -> dict[int, float]:
        found = {s: (r.result.get("class_accuracy") or {}) for s, r in runs.get(one, {}).items()}
        return {seed: by_class[name] for seed, by_class in found.items() if name in by_class}

    measured = (r.result.get("class_accuracy") or {} for r in runs[method].values())
    classes: dict[str, OfClass] = {}
    for name in dict.fromkeys(name for by_class in measured for name in by_class):
        values = of(name, method)
        to_full, to_random = (
            None if method == control else paired_difference(values, of(name, control))
            for control in (FULL, RANDOM)
        )
        mean = _mean(list(values.values()))
        classes[name] = OfClass(mean=mean, to_full=to_full, to_random=to_random)
    return classes


def _values(runs: Mapping[int, Record], name: str) -> dict[int, float]:
    """By seed what was measured under a name of `Record.measured`, where it was."""
    return {s: r.measured[name]["value"] for s, r in runs.items() if name in r.measured}


def _compared(method: str, runs: _Runs, name: str) -> dict[str, Any]:
    """The fields of `Compared`, of what was measured under a name."""
    values = _values(runs[method], name)

    def to(control: str) -> Estimate | None:
        reference = _values(runs.get(control, {}), name)
        return None if method == control else paired_difference(values, reference)

    differences = {"to_full": to(FULL), "to_full_short": to(FULL_SHORT), "to_random": to(RANDOM)}
    return {"value": estimate(list(values.values())), **differences}


def _other_metric(method: str, runs: _Runs, name: str) -> OtherMetric:
    mine = [record for record in runs[method].values() if name in record.measured]
    return OtherMetric(
        **_compared(method, runs, name),
        metric=_metric(mine[0], name),
        num_items=mine[0].measured[name].get("num_items"),
        num_cut=max(record.measured[name].get("num_truncated", 0) for record in mine),
    )


def _savings(
    mine: Mapping[int, Record], control: Mapping[int, Record], metric: Metric
) -> dict[str, OtherMetric]:
    """What a method of choosing prompts paid until it was as good as random was in the end."""
    return {
        name: OtherMetric(
            value=share,
            **dict.fromkeys(("to_full", "to_full_short", "to_random")),
            metric=Metric(name, "", "lower"),
            num_items=None,
            num_cut=0,
        )
        for name, share in savings(mine, control, metric).items()
    }


def _cost_to_reach(method: str, runs: _Runs, *, metric: Metric, epochs: int) -> float | None:
    """The mean cost at the first evaluation whose mean over seeds is what full-short ends with."""
    if FULL_SHORT not in runs:
        return None
    target = estimate(list(_values(runs[FULL_SHORT], "").values())).mean
    records = list(runs[method].values())
    for lines in zip(*(record.evaluations for record in records), strict=False):
        mean = estimate([value_of(line) or 0.0 for line in lines]).mean
        if metric.sign * mean >= metric.sign * target:
            visits = [line["num_forward"] + 2 * line["num_backward"] for line in lines]
            return _mean(visits) / (3 * records[0].result["num_train_samples"] * epochs)
    return None


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _over_tasks(tasks: Sequence[Task], keep_ratio: float) -> OverTasks:
    cells = [cell for task in tasks for cell in task.cells if cell.keep_ratio == keep_ratio]
    ranked = [cell for cell in cells if len(cell.rows) > 1]
    metrics = [cell.metric for cell in cells]
    metric = max(metrics, key=metrics.count)
    averaged = [cell for cell in cells if cell.metric == metric]

    def spread(method: str, difference: Callable[[Row], Estimate | None]) -> Spread | None:
        rows = [row for cell in averaged if (row := cell.row(method)) is not None]
        means = [value.mean for row in rows if (value := difference(row)) is not None]
        return mean_over_tasks(means) if means else None

    ranks = _mean_ranks(ranked)
    methods = [
        MethodOverTasks(
            method=method,
            rank=ranks.get(method),
            to_random=spread(method, lambda row: row.to_random),
            to_full_short=spread(method, lambda row: row.to_full_short),
        )
        for method in dict.fromkeys(row.method for cell in cells for row in cell.rows)
    ]
    return OverTasks(
        keep_ratio=keep_ratio,
        tasks=[cell.task for cell in cells],
        ranked=[cell.task for cell in ranked],
        metric=metric,
        averaged=[cell.task for cell in averaged],
        methods=sorted(methods, key=lambda found: (found.rank is None, found.rank or 0.0)),
    )


def _mean_ranks(cells: Sequence[Cell]) -> dict[str, float]:
    """Ranks of the methods that all cells have; empty if there are no two, or no seed in common."""
    by_cell = [{row.method for row in cell.rows} for cell in cells]
    shared = set[str]().union(*by_cell).intersection(*by_cell)
    ranks: list[dict[str, float]] = []
    for cell in cells:
        sign, rows = cell.metric.sign, [row for row in cell.rows if row.method in shared]
        found = mean_ranks({r.method: {s: sign * v for s, v in r.by_seed.items()} for r in rows})
        if found is None or len(found) < 2:
            return {}
        ranks.append(found)
    return {method: _mean([found[method] for found in ranks]) for method in shared}
