"""A report on the terminal, as comparison.md, and its numbers as comparison.json."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import rich.table
from rich import box
from rich.console import Console

from data_agent.runtime.files import write_json, write_text
from data_agent_lab.results.conclusions import conclude
from data_agent_lab.results.findings import Report
from data_agent_lab.results.savings import SHARES
from data_agent_lab.results.statistics import LEAST_TASKS
from data_agent_lab.results.tables import (
    FIGURES,
    TIME,
    Table,
    cell_table,
    describe,
    figure_of,
    other_metrics_table,
    tables_over_tasks,
    verdict,
)
from data_agent_lab.runs.result import Metric

_SPARE = ("seeds", "reach %", "select %", TIME)  # left out first where the terminal is narrow


def show(report: Report, console: Console) -> None:
    """Print every table; 120 columns hold them, and fewer hold what matters most in them."""
    for cell in (cell for task in report.tasks for cell in task.cells):
        _print_table(cell_table(cell), console)
        if (conclusion := conclude(cell)) is not None:
            console.print(conclusion.in_words(), end="\n\n")
        console.print(verdict(cell), end="\n\n")
        if (others := other_metrics_table(cell)) is not None:
            _print_table(others, console)
    for table in tables_over_tasks(report):
        _print_table(table, console)
    for note in notes(report):
        console.print(note)


def write(report: Report, folder: Path, *, figures: bool = True) -> None:
    """Write comparison.json and comparison.md, which links to what `figure.draw` makes."""
    write_json(folder / "comparison.json", asdict(report))
    write_text(folder / "comparison.md", to_markdown(report, figures=figures))


def to_markdown(report: Report, *, figures: bool = True) -> str:
    """Tables and figures, how to read them, and where their numbers come from."""
    lines = [f"# {', '.join(task.name for task in report.tasks)}", ""]
    for table in tables_over_tasks(report):
        lines += [f"## {table.title}", "", *_markdown_table(table)]
    for task in report.tasks:
        lines += [f"## {task.name}", "", describe(task), ""]
        for cell in task.cells:
            table, others = cell_table(cell), other_metrics_table(cell)
            lines += [f"### {table.title}", ""]
            if (conclusion := conclude(cell)) is not None:
                lines += [conclusion.in_words(), ""]
            lines += [verdict(cell), "", *_markdown_table(table)]
            if others is not None:
                lines += ["Other metrics of the same models:", "", *_markdown_table(others)]
            if figures:
                lines += [f"![{task.name}]({FIGURES}/{figure_of(task.name, cell.keep_ratio)})", ""]
        if figures:
            lines += [f"![{task.name}]({FIGURES}/{figure_of(task.name)})", ""]
    lines += ["## How to read this", "", *(f"- {note}" for note in notes(report)), ""]
    rows = [[title, "; ".join(found)] for title, found in report.environment.items()]
    lines += _markdown_table(Table("", ["", ""], rows))
    lines += ["Every number is in comparison.json and in its run.", ""]
    return "\n".join(lines)


def notes(report: Report) -> list[str]:
    """What the columns mean, and what these runs cannot say."""
    cells = [cell for task in report.tasks for cell in task.cells]
    rows = [row for cell in cells for row in cell.rows]
    others = [other for row in rows for other in row.other_metrics.values()]
    metrics, clocks = [cell.metric for cell in cells], sorted({cell.clock for cell in cells})
    lower = [m for m in [*metrics, *(other.metric for other in others)] if m.sign < 0]
    estimates = [
        e for r in [*rows, *others] for e in (r.value, r.to_full_short, r.to_full, r.to_random) if e
    ]
    candidates = {
        f"{_as_first(_listed(metric.name for metric in metrics))} is that of the last epoch. "
        "Intervals are 95 % (Student's t over seeds); differences are in "
        f"{_listed(_unit_of_differences(metric) for metric in metrics)} and paired by seed.": True,
        f"Lower is better for {_listed(metric.name for metric in lower)}: there, a method with a "
        "negative difference is better than what it is compared with.": bool(lower),
        "Shares until random's level: what a method paid when it first was as good as random was "
        "over its last three evaluations, in all that random paid; a run that never was counts "
        "with all that it paid. Random's own share is below 1 where its curve is flat or "
        "rough.": any(name in SHARES for row in rows for name in row.other_metrics),
        "Cut items did not fit into the model's context whole: their beginning was left out.": any(
            other.num_cut for other in others
        ),
        "Cost is (forward + 2 x backward visits) / (3 N E), all that a method needs included. "
        "Reach is the cost at the first evaluation whose mean over seeds is what full-short ends "
        "with, in % of full training; - if there is none.": True,
        "Tokens is the cost counted in tokens instead of samples: what a method that likes long "
        "sequences really costs. Reach is counted in samples.": any(
            row.token_cost is not None for row in rows
        ),
        f"Time / full is {' or '.join(clocks)} of training without evaluation, relative to full "
        "training of the same seed; select is the share of it spent on choosing samples.": True,
        "Runs in parallel slow each other down, so the processor time that each spent in training "
        "is given instead of the wall-clock.": "processor time" in clocks,
        "Over tasks: ranks are averaged over seeds and then tasks, among the methods that all "
        "tasks with two methods or more have (1 is best); differences are means over tasks with "
        f"Student's 95 % interval over tasks, given for {LEAST_TASKS} tasks or more.": bool(
            report.over_tasks
        ),
        "One seed has no interval: use --seeds 3 or more before drawing conclusions.": any(
            row.value.count == 1 for row in rows
        ),
        "Intervals in brackets are of 2 seeds: no claim. Use --seeds 3 or more.": any(
            found.count == 2 for found in estimates
        ),
        "Some tasks were run on different machines: their times do not compare.": not all(
            cell.one_machine for cell in cells
        ),
        f"Renamed since they ran: {'; '.join(report.relabelled)}.": bool(report.relabelled),
        f"Not finished, so not in here: {', '.join(report.unfinished)}.": bool(report.unfinished),
    }
    return [note for note, applies in candidates.items() if applies]


def _as_first(words: str) -> str:
    """At a sentence's beginning; names that have capitals stay as they are."""
    return words.capitalize() if words.islower() else words


def _listed(words: Iterable[str]) -> str:
    """The different ones, joined by "or"."""
    return " or ".join(dict.fromkeys(words))


def _unit_of_differences(metric: Metric) -> str:
    return "points" if metric.unit == "%" else metric.unit or f"units of the {metric.name}"


def _print_table(table: Table, console: Console) -> None:
    """Where the console is too narrow for a table, its intervals go below their means.

    Where it still is, columns are left out, and named.
    """
    anywhere = console.options.update(max_width=1000)
    drawn, left_out = _rich_table(table), ()
    spare = [name for name in _SPARE if name in table.columns]
    for count in range(len(spare) + 1):
        if console.measure(drawn, options=anywhere).maximum <= console.width:
            break
        left_out = tuple(spare[:count])
        drawn = _rich_table(table, before_interval="\n", without=left_out)
    console.print(drawn)
    if left_out:
        console.print(f"Left out, as the terminal is narrow: {', '.join(left_out)}.")
    console.print()


def _rich_table(
    table: Table, before_interval: str = " ", without: Sequence[str] = ()
) -> rich.table.Table:
    """Times without intervals; titles are broken where they are wider than the texts below them."""
    drawn = rich.table.Table(
        title=table.title,
        title_justify="left",
        box=box.SIMPLE,
        show_edge=False,
        padding=(0, 1, 0, 0),
    )
    shown: list[list[str]] = []
    for column, texts in zip(table.columns, zip(*table.rows, strict=True), strict=True):
        if column in without:
            continue
        interval = "" if column == TIME else rf"{before_interval}\1"
        shown.append([re.sub(r" (\(?\+-.*|\[.*)", interval, text) for text in texts])
        widest = max(len(line) for text in shown[-1] for line in text.splitlines())
        title, is_name = _in_lines(column, widest), column in ("method", "metric")
        justify = "left" if is_name else "right"
        drawn.add_column(title, justify=justify, no_wrap=column == "method", overflow="fold")
    for row in zip(*shown, strict=True):
        drawn.add_row(*row)
    return drawn


def _in_lines(title: str, widest: int) -> str:
    """A title in lines hardly longer than the texts below it, broken at spaces and hyphens."""
    title = title.replace("/ ", "/\N{NO-BREAK SPACE}")
    longest = max(map(len, re.split(r" |(?<=-)", title)))
    lines = textwrap.wrap(title, max(widest + 1, longest))
    return "\n".join(lines).replace("\N{NO-BREAK SPACE}", " ")


def _markdown_table(table: Table) -> list[str]:
    rows = [table.columns, ["---"] * len(table.columns), *table.rows]
    return [*(f"| {' | '.join(row)} |" for row in rows), ""]
