"""What a comparison shows, read from its runs' folders alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_agent._errors import InputError
from data_agent.lab.compare import run_path
from data_agent.lab.config import CompareConfig
from data_agent.lab.files import write_json, write_text
from data_agent.lab.methods import FULL, FULL_SHORT
from data_agent.lab.runs import RunFolder
from data_agent.lab.statistics import Estimate, estimate, paired_difference

COLUMNS = (
    "method",
    "accuracy % (last epoch)",
    "diff. to full",
    "diff. to full-short",
    "cost %",
    "wall-clock / full",
    "overhead %",
    "seeds",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One method.

    Args:
        method: its name.
        value: metric of the last epoch, in percent, over seeds.
        to_full: difference to full training, paired by seed, in points; None where there is none.
        to_full_short: the same to the short control.
        cost: (forward visits + 2 x backward visits) / (3 N E), a share of full training.
        wall_clock: training time relative to full training of the same seed.
        overhead: share of the training time spent inside the selector.
        by_seed: the metric of each seed.
    """

    method: str
    value: Estimate
    to_full: Estimate | None
    to_full_short: Estimate | None
    cost: float
    wall_clock: Estimate | None
    overhead: float
    by_seed: dict[int, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """A comparison's rows, and all that is needed to judge them.

    Args:
        config: recipe, methods and number of seeds, flat.
        rows: the methods that have finished runs, in the order asked for.
        results: by run, what it wrote as its result.
        sessions: by run, the environments it ran in.
    """

    config: dict[str, Any]
    rows: list[Row]
    results: dict[str, dict[str, Any]]
    sessions: dict[str, list[dict[str, Any]]]


def summarise(config: CompareConfig, output: Path) -> Comparison:
    """Read the finished runs of a comparison.

    Raises:
        InputError: none has finished.
    """
    results: dict[str, dict[int, dict[str, Any]]] = {}
    by_run: dict[str, dict[str, Any]] = {}
    sessions: dict[str, list[dict[str, Any]]] = {}
    for run in config.runs():
        folder = RunFolder(run_path(output, run))
        if folder.status(run.flat()) != "finished":
            continue
        result = folder.result()
        results.setdefault(run.method, {})[run.seed] = result
        by_run[folder.path.name] = result
        sessions[folder.path.name] = folder.sessions()
    if not results:
        raise InputError(f"none of the runs in {output} has finished; there is nothing to compare.")
    return Comparison(
        config={**asdict(config.recipe), "methods": config.method_names, "seeds": config.seeds},
        rows=[_row(m, results) for m in config.method_names if m in results],
        results=by_run,
        sessions=sessions,
    )


def table_cells(row: Row) -> list[str]:
    """The row's cells, in the order of `COLUMNS`."""
    return [
        row.method,
        format_estimate(row.value),
        format_estimate(row.to_full, sign=True),
        format_estimate(row.to_full_short, sign=True),
        f"{100 * row.cost:.1f}",
        format_estimate(row.wall_clock),
        f"{100 * row.overhead:.1f}",
        str(row.value.count),
    ]


def format_estimate(value: Estimate | None, *, sign: bool = False) -> str:
    """`mean +- half-width` with two decimals; the mean alone without an interval, - for None."""
    if value is None:
        return "-"
    mean = f"{value.mean:+.2f}" if sign else f"{value.mean:.2f}"
    return mean if value.half_width is None else f"{mean} +- {value.half_width:.2f}"


def write_report(comparison: Comparison, output: Path) -> None:
    """Write comparison.json and comparison.md."""
    write_json(output / "comparison.json", asdict(comparison))
    write_text(output / "comparison.md", to_markdown(comparison))


def to_markdown(comparison: Comparison) -> str:
    """The table, how to read it, and where its numbers come from."""
    config = comparison.config
    first = next(iter(comparison.results.values()))
    lines = [
        f"# {config['task']}: {', '.join(row.method for row in comparison.rows)}",
        "",
        f"{config['model']}, {first['num_train_samples']:,} training samples"
        f" ({first['num_noisy_labels']:,} with a wrong label), {config['epochs']} epochs,"
        f" keep ratio {config['keep_ratio']}; evaluated on {first['num_eval_samples']:,} samples"
        f" ({first['evaluation']}).",
        "",
        _markdown_row(COLUMNS),
        _markdown_row(["---"] * len(COLUMNS)),
        *(_markdown_row(table_cells(row)) for row in comparison.rows),
        "",
        *reading_notes(comparison),
        "",
        "| | |",
        "| --- | --- |",
        *(_markdown_row([name, text]) for name, text in _provenance(comparison)),
        "",
        "Every number is in comparison.json and in the folder of its run.",
        "",
    ]
    return "\n".join(lines)


def reading_notes(comparison: Comparison) -> list[str]:
    """What the columns mean, and what this comparison cannot say."""
    notes = [
        "Intervals are 95 % (Student's t over seeds); differences are paired by seed. Cost is "
        "(forward + 2 x backward visits) / (3 N E). Wall-clock is training without evaluation.",
    ]
    if any(row.value.count == 1 for row in comparison.rows):
        notes.append("One seed has no interval: use --seeds 3 or more before drawing conclusions.")
    if len(_distinct(comparison, "cpu", "gpu", "num_threads", "device")) > 1:
        notes.append("The runs used different machines: their wall-clock times do not compare.")
    return notes


def _row(method: str, results: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> Row:
    mine = results[method]
    full = results.get(FULL, {})

    def values(of: str) -> dict[int, float]:
        return {seed: result["value"] for seed, result in results.get(of, {}).items()}

    ratios = [
        result["train_seconds"] / full[seed]["train_seconds"]
        for seed, result in mine.items()
        if seed in full and method != FULL
    ]
    seconds = sum(result["train_seconds"] for result in mine.values())
    return Row(
        method=method,
        value=estimate(list(values(method).values())),
        to_full=None if method == FULL else paired_difference(values(method), values(FULL)),
        to_full_short=None
        if method == FULL_SHORT
        else paired_difference(values(method), values(FULL_SHORT)),
        cost=sum(result["cost"] for result in mine.values()) / len(mine),
        wall_clock=estimate(ratios) if ratios else None,
        overhead=sum(result["overhead_seconds"] for result in mine.values()) / seconds,
        by_seed=values(method),
    )


def _provenance(comparison: Comparison) -> list[tuple[str, str]]:
    rows = [
        ("command", ("command",)),
        ("commit", ("commit",)),
        ("processor", ("cpu", "num_cpus", "num_threads")),
        ("accelerator", ("gpu",)),
        ("system", ("platform",)),
        ("versions", ("data_agent", "torch", "numpy", "python")),
    ]
    return [(title, "; ".join(_distinct(comparison, *names))) for title, names in rows]


def _distinct(comparison: Comparison, *names: str) -> list[str]:
    """The different values that the runs' sessions have of these fields, in order."""
    texts = [
        ", ".join(
            f"{name} {session[name]}" if len(names) > 1 else str(session[name]) for name in names
        )
        for sessions in comparison.sessions.values()
        for session in sessions
    ]
    return list(dict.fromkeys(texts))


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
