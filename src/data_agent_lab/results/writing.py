"""A report as text: tables on the terminal, comparison.md and comparison.json."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from data_agent.runtime.files import write_json, write_text
from data_agent_lab.methods import FULL
from data_agent_lab.results.figure import FIGURES, comparison_figure, frontier_figure
from data_agent_lab.results.findings import Across, Cell, Further, Report, Row, Standing, Task
from data_agent_lab.results.records import Metric
from data_agent_lab.results.statistics import Estimate, Spread

_Columns = Sequence[tuple[str, Callable[[Row], str]]]


def format_estimate(value: Estimate | None, *, sign: bool = False, digits: int = 2) -> str:
    """`mean +- half-width` with that many decimals; the mean alone without an interval, or -."""
    if value is None:
        return "-"
    mean = f"{value.mean:+.{digits}f}" if sign else f"{value.mean:.{digits}f}"
    return mean if value.half_width is None else f"{mean} +- {value.half_width:.{digits}f}"


def format_spread(value: Spread | None, *, digits: int = 2) -> str:
    """`mean [low, high]` with signs; the mean alone without an interval, - for None."""
    if value is None:
        return "-"
    mean = f"{value.mean:+.{digits}f}"
    if value.interval is None:
        return mean
    low, high = value.interval
    return f"{mean} [{low:+.{digits}f}, {high:+.{digits}f}]"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def columns_of(cell: Cell) -> _Columns:
    """The columns of a cell's table; on the terminal the interval of the time is left out."""
    digits = cell.metric.digits

    def difference(value: Estimate | None) -> str:
        return format_estimate(value, sign=True, digits=digits)

    has_tokens = any(row.token_cost is not None for row in cell.rows)
    return (
        ("method", lambda row: row.method),
        (cell.metric.in_words(), lambda row: format_estimate(row.value, digits=digits)),
        ("to full", lambda row: difference(row.to_full)),
        ("to full-short", lambda row: difference(row.to_full_short)),
        ("to random", lambda row: difference(row.to_random)),
        ("cost %", lambda row: _percent(row.cost)),
        *([("tokens %", lambda row: _percent(row.token_cost))] if has_tokens else []),
        ("time / full", lambda row: format_estimate(row.time)),
        ("select %", lambda row: _percent(row.overhead)),
        ("reach %", lambda row: _percent(row.cost_to_reach)),
        ("seeds", lambda row: str(row.value.count)),
    )


def further_table(cell: Cell) -> tuple[list[str], list[list[str]]]:
    """Titles and rows of the table of a cell's other metrics; no rows if there are none."""
    names = list(dict.fromkeys(name for row in cell.rows for name in row.further))
    rows: list[list[str]] = []
    for name in names:
        for row in cell.rows:
            if (found := row.further.get(name)) is None:
                continue
            digits = found.metric.digits
            rows.append(
                [
                    found.metric.in_words(),
                    row.method,
                    format_estimate(found.value, digits=digits),
                    format_estimate(found.to_full, sign=True, digits=digits),
                    format_estimate(found.to_random, sign=True, digits=digits),
                    _items(found),
                    str(found.value.count),
                ]
            )
    return ["metric", "method", "value", "to full", "to random", "items", "seeds"], rows


def _items(further: Further) -> str:
    if further.num_items is None:
        return "-"
    cut = f" ({further.num_cut:,} cut)" if further.num_cut else ""
    return f"{further.num_items:,}{cut}"


# Broken where the words are wider than the numbers below them.
_NARROW = {
    "to full-short": "to\nfull-short",
    "cost %": "cost\n%",
    "tokens %": "tokens\n%",
    "time / full": "time\n/ full",
    "select %": "select\n%",
    "reach %": "reach\n%",
}

_STANDING_TITLES = ("method", "mean rank", "to random", "to full-short", "tasks")


def _standing_cells(standing: Standing, digits: int) -> list[str]:
    spreads = (standing.to_random, standing.to_full_short)
    return [
        standing.method,
        "-" if standing.rank is None else f"{standing.rank:.2f}",
        *(format_spread(spread, digits=digits) for spread in spreads),
        str(max(0 if spread is None else spread.count for spread in spreads)),
    ]


def show(report: Report, console: Console) -> None:
    """Print every table; 120 columns hold them."""
    for task in report.tasks:
        for cell in task.cells:
            _show_cell(cell, f"{task.name}, keep ratio {cell.keep_ratio}", console)
    for across in report.across:
        rows = [_standing_cells(standing, across.metric.digits) for standing in across.standings]
        _print_table(across_title(across), _STANDING_TITLES, rows, console)
        console.print()
    for note in notes(report):
        console.print(note)


def _show_cell(cell: Cell, title: str, console: Console) -> None:
    columns = columns_of(cell)
    names = [_NARROW.get(name, name) for name, _ in columns]
    _print_table(title, names, [_narrow_cells(row, columns) for row in cell.rows], console)
    console.print()
    console.print(verdict(cell))
    console.print()
    titles, rows = further_table(cell)
    if rows:
        _print_table(f"{title}, other metrics", titles, rows, console)
        console.print()


def write(report: Report, folder: Path) -> None:
    """Write comparison.json and comparison.md, each whole or not at all."""
    write_json(folder / "comparison.json", asdict(report))
    write_text(folder / "comparison.md", to_markdown(report))


def to_markdown(report: Report) -> str:
    """Tables and figures, how to read them, and where their numbers come from."""
    lines = [f"# {', '.join(task.name for task in report.tasks)}", ""]
    for across in report.across:
        lines += [f"## {across_title(across)}", ""]
        lines += _markdown_table(
            _STANDING_TITLES,
            [_standing_cells(standing, across.metric.digits) for standing in across.standings],
        )
    for task in report.tasks:
        lines += [f"## {task.name}", "", describe(task), ""]
        for cell in task.cells:
            lines += [f"### {task.name}, keep ratio {cell.keep_ratio}", "", verdict(cell), ""]
            columns = columns_of(cell)
            lines += _markdown_table(
                [name for name, _ in columns],
                [[text(row) for _, text in columns] for row in cell.rows],
            )
            titles, rows = further_table(cell)
            if rows:
                lines += ["Other metrics of the same models:", "", *_markdown_table(titles, rows)]
            lines += [f"![{task.name}]({FIGURES}/{comparison_figure(cell)})", ""]
        lines += [f"![{task.name}]({FIGURES}/{frontier_figure(task)})", ""]
    lines += ["## How to read this", ""]
    lines += [f"- {note}" for note in notes(report)]
    lines += ["", "| | |", "| --- | --- |"]
    lines += [
        _markdown_row([title, "; ".join(found)]) for title, found in report.environment.items()
    ]
    lines += ["", "Every number is in comparison.json and in the folder of its run.", ""]
    return "\n".join(lines)


def describe(task: Task) -> str:
    """A task's recipe in a sentence."""
    config, facts = task.config, task.facts
    regime = f" ({_regime(config, facts)})" if config.get("kind") not in ("sft", "lm") else ""
    return (
        f"{config['model']}, {facts['num_train_samples']:,} training samples{regime},"
        f" {config['epochs']} epochs; evaluated on {facts['num_eval_samples']:,} samples"
        f" ({facts['evaluation']})." + _left_out(facts.get("dropped") or {})
    )


def _left_out(dropped: Mapping[str, int]) -> str:
    counts = [f"{count:,} {reason}" for reason, count in dropped.items()]
    return f" Of the rows asked for: {'; '.join(counts)}." if counts else ""


def _regime(config: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """What is hard about a task's labelled samples."""
    regime = f"{facts['num_noisy_labels']:,} with a wrong label"
    if config.get("imbalance") is not None:
        regime += f", the first class {config['imbalance']:g} times the last"
    if config.get("duplicates"):
        regime += f", {100 * config['duplicates']:g} % near-copies of others"
    return regime


def verdict(cell: Cell) -> str:
    """Whether this task at this budget can tell methods apart."""
    if cell.tells_apart is None:
        return (
            "Whether it tells methods apart is not known: full and full-short need two seeds each."
        )
    if cell.tells_apart:
        return (
            "It can tell methods apart: full training beats full-short beyond the seeds' interval."
        )
    full = cell.row(FULL)
    digits = cell.metric.digits
    gain = format_estimate(None if full is None else full.to_full_short, sign=True, digits=digits)
    return (
        "With these seeds it is a never-worse check only: full training does not beat full-short "
        f"beyond their interval ({gain}). Where that holds with more seeds, more visits buy "
        "nothing, and what is left to win is leaving out what harms."
    )


def across_title(across: Across) -> str:
    """What the table over tasks covers, and which of them differences are averaged over."""
    title = f"Over {len(across.tasks)} tasks, keep ratio {across.keep_ratio}"
    if len(across.averaged) == len(across.tasks):
        return title
    return (
        f"{title}: ranks over all of them, differences over the {len(across.averaged)} that "
        f"measure {across.metric.in_words()}"
    )


def notes(report: Report) -> list[str]:
    """What the columns mean, and what these runs cannot say."""
    cells = [cell for task in report.tasks for cell in task.cells]
    return [*_metric_notes(cells), *_cost_notes(cells), *_limits_of(report, cells)]


def _metric_notes(cells: Sequence[Cell]) -> list[str]:
    metrics = [cell.metric for cell in cells]
    others = [further for cell in cells for row in cell.rows for further in row.further.values()]
    found = [
        f"{_listed(metric.name for metric in metrics).capitalize()} is that of the last epoch. "
        "Intervals are 95 % (Student's t over seeds); differences are in "
        f"{_listed(_unit_of_differences(metric) for metric in metrics)} and paired by seed."
    ]
    lower = [m for m in [*metrics, *(further.metric for further in others)] if m.sign < 0]
    if lower:
        found.append(
            f"Lower is better for {_listed(metric.name for metric in lower)}: there, a method with "
            "a negative difference is better than what it is compared with."
        )
    if any(further.num_cut for further in others):
        found.append(
            "Cut items did not fit into the model's context whole: their beginning was left out."
        )
    return found


def _cost_notes(cells: Sequence[Cell]) -> list[str]:
    clocks = sorted({cell.clock for cell in cells})
    found = [
        "Cost is (forward + 2 x backward visits) / (3 N E), all that a method needs included. "
        "Reach is the cost at the first evaluation whose mean over seeds is what full-short ends "
        "with, in % of full training; - if there is none.",
    ]
    if any(row.token_cost is not None for cell in cells for row in cell.rows):
        found.append(
            "Tokens is the cost counted in tokens instead of samples: what a method that likes "
            "long sequences really costs. Reach is counted in samples."
        )
    found.append(
        f"Time / full is {' or '.join(clocks)} of training without evaluation, relative to full "
        "training of the same seed; select is the share of it spent on choosing samples."
    )
    if "processor time" in clocks:
        found.append(
            "Runs in parallel slow each other down, so the processor time that each spent in "
            "training is given instead of the wall-clock."
        )
    return found


def _limits_of(report: Report, cells: Sequence[Cell]) -> list[str]:
    found: list[str] = []
    if report.across:
        found.append(
            "Over tasks: ranks are averaged over seeds and then tasks, among the methods that all "
            "tasks have (1 is best); differences are means over tasks with the 95 % percentile "
            "interval of 9,999 bootstrap resamples of the tasks, given for three tasks or more."
        )
    if any(row.value.count == 1 for cell in cells for row in cell.rows):
        found.append("One seed has no interval: use --seeds 3 or more before drawing conclusions.")
    if not all(cell.one_machine for cell in cells):
        found.append("Some tasks were run on different machines: their times do not compare.")
    if report.unfinished:
        found.append(f"Not finished, so not in here: {', '.join(report.unfinished)}.")
    return found


def _listed(words: Iterable[str]) -> str:
    """The different ones, joined by "or"."""
    return " or ".join(dict.fromkeys(words))


def _unit_of_differences(metric: Metric) -> str:
    return "points" if metric.unit == "%" else metric.unit or f"units of the {metric.name}"


def _print_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], console: Console
) -> None:
    """Where the console is too narrow for a table, its intervals go below their means."""
    table = _table(title, columns, rows)
    anywhere = console.options.update(max_width=1000)
    if console.measure(table, options=anywhere).maximum > console.width:
        table = _table(title, columns, [[t.replace(" +- ", "\n+- ") for t in row] for row in rows])
    console.print(table)


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(
        title=title,
        title_justify="left",
        box=box.SIMPLE,
        show_edge=False,
        padding=(0, 1, 0, 0),
    )
    for name in columns:
        table.add_column(name, justify="left" if name in ("method", "metric") else "right")
    for row in rows:
        table.add_row(*row)
    return table


def _narrow_cells(row: Row, columns: _Columns) -> list[str]:
    narrow = {"time / full": "-" if row.time is None else f"{row.time.mean:.2f}"}
    return [narrow.get(name, text(row)) for name, text in columns]


def _markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        _markdown_row(columns),
        _markdown_row(["---"] * len(columns)),
        *(_markdown_row(row) for row in rows),
        "",
    ]


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
