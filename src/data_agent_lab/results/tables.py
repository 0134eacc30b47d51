"""The tables of a report as data: built once, then rendered for the terminal and as Markdown."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data_agent_lab.results.findings import Cell, OtherMetric, OverTasks, Report, Task
from data_agent_lab.results.savings import SHARES, SPREADLESS
from data_agent_lab.results.statistics import FEWEST_SEEDS, Estimate, Spread, mean_over_tasks

TIME = "time / full"
FIGURES = "figures"  # folder beside the report


@dataclass(frozen=True, slots=True)
class Table:
    """A table of texts."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def format_estimate(value: Estimate | None, *, sign: bool = False, digits: int = 2) -> str:
    """`mean +- half-width`, in brackets the half-width of two seeds; - for None."""
    if value is None:
        return "-"
    mean = f"{value.mean:{'+' if sign else ''}.{digits}f}"
    if value.half_width is None:
        return mean
    width = f"+- {value.half_width:.{digits}f}"
    return f"{mean} {width}" if value.count >= FEWEST_SEEDS else f"{mean} ({width})"


def format_spread(value: Spread | None, *, digits: int = 2, sign: str = "+") -> str:
    """`mean [low, high]`, with signs by default; the mean alone without an interval, - for None."""
    if value is None:
        return "-"
    interval = ", ".join(f"{end:{sign}.{digits}f}" for end in value.interval or ())
    return f"{value.mean:{sign}.{digits}f}" + (f" [{interval}]" if interval else "")


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def cell_table(cell: Cell) -> Table:
    """The methods on a task at a budget."""
    digits = cell.metric.digits
    columns: dict[str, list[str]] = {
        "method": [row.method for row in cell.rows],
        cell.metric.in_words(): [format_estimate(row.value, digits=digits) for row in cell.rows],
    }
    for name in ("to full", "to full-short", "to random"):
        attribute = name.replace(" ", "_").replace("-", "_")
        differences = [getattr(row, attribute) for row in cell.rows]
        columns[name] = [format_estimate(d, sign=True, digits=digits) for d in differences]
    columns["cost %"] = [_percent(row.cost) for row in cell.rows]
    if any(row.token_cost is not None for row in cell.rows):
        columns["tokens %"] = [_percent(row.token_cost) for row in cell.rows]
    columns[TIME] = [format_estimate(row.time) for row in cell.rows]
    columns["select %"] = [_percent(row.overhead) for row in cell.rows]
    columns["reach %"] = [_percent(row.cost_to_reach) for row in cell.rows]
    columns["seeds"] = [str(row.value.count) for row in cell.rows]
    title = f"{cell.task}, keep ratio {cell.keep_ratio}"
    return Table(title, list(columns), list(zip(*columns.values(), strict=True)))


def other_metrics_table(cell: Cell) -> Table | None:
    """The other metrics of the same models; None without any."""
    rows = [
        _other_metric(row.method, row.other_metrics[name])
        for name in dict.fromkeys(name for row in cell.rows for name in row.other_metrics)
        for row in cell.rows
        if name in row.other_metrics
    ]
    columns = ("metric", "method", "value", "to full", "to random", "items", "seeds")
    title = f"{cell.task}, keep ratio {cell.keep_ratio}, other metrics"
    return Table(title, columns, rows) if rows else None


def _other_metric(method: str, found: OtherMetric) -> list[str]:
    digits = found.metric.digits
    items = "-" if found.num_items is None else f"{found.num_items:,}"
    return [
        found.metric.in_words(),
        method,
        format_estimate(found.value, digits=digits),
        format_estimate(found.to_full, sign=True, digits=digits),
        format_estimate(found.to_random, sign=True, digits=digits),
        items + (f" ({found.num_cut:,} cut)" if found.num_items and found.num_cut else ""),
        str(found.value.count),
    ]


def tables_over_tasks(report: Report) -> list[Table]:
    """The methods over several tasks: by budget their ranks and differences, and what they paid."""
    paid = _savings_table(report)
    return [*map(over_tasks_table, report.over_tasks), *([] if paid is None else [paid])]


def _savings_table(report: Report) -> Table | None:
    """Means over tasks of what choosing prompts paid; None of one task, or of tasks without.

    The interval is Student's over tasks.
    """
    found: dict[str, dict[str, list[float]]] = {}  # by method and title, one of each task
    for row in (row for task in report.tasks for cell in task.cells for row in cell.rows):
        for name in (*SHARES, SPREADLESS):
            if name in row.other_metrics:
                values = found.setdefault(row.method, {}).setdefault(name, [])
                values.append(row.other_metrics[name].value.mean)
    if len(report.tasks) == 1 or not found:
        return None
    names = [n for n in (*SHARES, SPREADLESS) if any(n in own for own in found.values())]
    rows = [
        [
            method,
            *(format_spread(_over_tasks(own.get(name)), digits=3, sign="") for name in names),
            str(max(map(len, own.values()))),
        ]
        for method, own in found.items()
    ]
    columns = ("method", *names, "tasks")
    return Table(f"Over {len(report.tasks)} tasks, what choosing prompts paid", columns, rows)


def _over_tasks(values: Sequence[float] | None) -> Spread | None:
    return mean_over_tasks(values) if values else None


def over_tasks_table(over: OverTasks) -> Table:
    """The methods over tasks; the title says which of these differences are averaged over."""
    title = f"Over {len(over.tasks)} tasks, keep ratio {over.keep_ratio}"
    if not over.ranked:
        title += ": no ranks of a single method"
    elif len(over.ranked) < len(over.tasks):
        title += f": ranks over the {len(over.ranked)} with two methods or more"
    elif len(over.averaged) < len(over.tasks):
        title += ": ranks over all of them"
    if len(over.averaged) < len(over.tasks):
        measured = f"the {len(over.averaged)} that measure {over.metric.in_words()}"
        title += f", differences over {measured}"
    rows: list[list[str]] = []
    for found in over.methods:
        spreads = (found.to_random, found.to_full_short)
        texts = [format_spread(spread, digits=over.metric.digits) for spread in spreads]
        count = max(0 if spread is None else spread.count for spread in spreads)
        rank = "-" if found.rank is None else f"{found.rank:.2f}"
        rows.append([found.method, rank, *texts, str(count or "-")])
    return Table(title, ("method", "mean rank", "to random", "to full-short", "tasks"), rows)


def figure_of(task: str, keep_ratio: float | None = None) -> str:
    """File name of the figure of a task's metric against cost, or of its methods at a budget."""
    plain = re.sub(r"[^A-Za-z0-9.]+", "-", task).strip("-")  # file systems and links dislike more
    return f"{plain}-frontier.png" if keep_ratio is None else f"{plain}-keep{keep_ratio}.png"


def describe(task: Task) -> str:
    """A task's recipe in a sentence."""
    config, facts = task.config, task.facts
    if "generations" in config:
        return (
            f"{config['model']}, {config['num_prompts']:,} prompts, {config['epochs']} times "
            f"{config['batches']} generation batches of {config['batch_size']} prompts and "
            f"{config['generations']} completions of each; evaluated on {facts['evaluation']}."
        )
    regime = _regime(config, facts)
    dropped = [f"{count:,} {reason}" for reason, count in (facts.get("dropped") or {}).items()]
    return (
        f"{config['model']}, {facts['num_train_samples']:,} training samples"
        + (f" ({', '.join(regime)})" if regime else "")
        + f", {config['epochs']} epochs; evaluated on {facts['num_eval_samples']:,} samples"
        f" ({facts['evaluation']})."
        + (f" Of the rows asked for: {'; '.join(dropped)}." if dropped else "")
    )


def _regime(config: Mapping[str, Any], facts: Mapping[str, Any]) -> list[str]:
    """What is particular about the training samples."""
    regime: list[str] = []
    if _knows_wrong_labels(config):
        regime.append(f"{facts.get('num_noisy_labels', 0):,} with a wrong label")
    if config.get("imbalance") is not None:
        regime.append(f"the first class {config['imbalance']:g} times the last")
    if config.get("duplicates"):
        regime.append(f"{100 * config['duplicates']:g} % near-copies of others")
    if config.get("foreign_share"):
        foreign = "rows of other sources" if "kind" in config else "foreign images"
        regime.append(f"{100 * config['foreign_share']:g} % {foreign} among these")
    if num_trusted := facts.get("num_trusted_rows") or config.get("trusted_rows"):
        trusted = f"{num_trusted:,} of them trusted"
        if noise := config.get("trusted_noise"):
            trusted += f" and {100 * noise:g} % of these wrong"
        if (imbalance := config.get("trusted_imbalance")) is not None:
            trusted += f", of the first class {imbalance:g} times as many as of the last"
        regime.append(f"{trusted}; every method had these")
    return regime


def _knows_wrong_labels(config: Mapping[str, Any]) -> bool:
    """Whether a recipe makes wrong labels or brings the true ones: of the user's own none known."""
    if config.get("kind") in ("sft", "lm") or "box_format" in config:
        return False
    sources = ("label_noise", "train_labels", "trusted_noise", "foreign_share")
    return any(config.get(name) for name in sources)


def verdict(cell: Cell) -> str:
    """Whether this task at this budget can tell methods apart."""
    if cell.gain is None or cell.tells_apart is None:
        return (
            "Whether it tells methods apart is not known: full and full-short need three seeds "
            "each."
        )
    gain = format_estimate(cell.gain, sign=True, digits=cell.metric.digits)
    samples = f"the sampling error of {cell.num_eval_samples:,} evaluation samples"
    errors = f"the seeds' interval ({samples} is not known)"
    if cell.sampling_error is not None:
        errors = f"the seeds' interval and {samples} (at most +- {cell.sampling_error:.2f})"
    if cell.tells_apart:
        return (
            f"It can tell methods apart: full training beats full-short ({gain}) beyond {errors}."
        )
    return (
        "With these seeds it is a never-worse check only: full training does not beat full-short "
        f"({gain}) beyond {errors}. Where that holds with more seeds, more visits buy nothing, and "
        "what is left to win is leaving out what harms."
    )
