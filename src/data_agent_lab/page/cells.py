"""A task's part of the page: for each budget what it comes to, charts, tables and samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from data_agent_lab.page.charts import axis_title, forest_chart, frontier_chart, line_chart
from data_agent_lab.page.classes import class_chart
from data_agent_lab.page.curves import Runs, axes_of, learning_curves
from data_agent_lab.page.detail import Detail
from data_agent_lab.page.drawing import figure
from data_agent_lab.page.gallery import gallery
from data_agent_lab.page.markup import Markup, tag
from data_agent_lab.page.pictures import Pictures
from data_agent_lab.page.samples import Columns
from data_agent_lab.page.styles import Style
from data_agent_lab.page.tables import table_of, typeset
from data_agent_lab.page.timeline import (
    charts_of_harm,
    charts_of_selector,
    picture_of_classes,
    runs_of,
)
from data_agent_lab.results.conclusions import Conclusion, conclude
from data_agent_lab.results.findings import CONTROLS, Cell, Row, Task
from data_agent_lab.results.records import value_of
from data_agent_lab.results.tables import cell_table, describe, other_metrics_table, verdict

_ANSWERS = {
    "pays": ("Selecting pays", "\N{CHECK MARK}"),
    "no gain": ("Not shown to pay", "\N{EQUALS SIGN}"),
    "harms": ("Selecting does not pay", "\N{MULTIPLICATION SIGN}"),
    "not known": ("Not known yet", "?"),
}
_ENDS = "The mean over seeds and its 95 % interval"
_COSTS = "What a forward and a backward pass of every sample cost, scores included."
_MOST_WITH_BANDS = 6  # methods; more of them would cover each other


@dataclass(frozen=True, slots=True)
class Samples:
    """The samples of one run, to look at."""

    run: str  # its name
    columns: Columns
    pictures: Pictures | None
    has_trusted: bool  # whether the run's score is likeness to trusted rows


@dataclass(frozen=True, slots=True)
class CellRuns:
    """The runs behind a cell of the report, and the samples of one of them."""

    runs: Runs
    samples: Samples | None


def subject_of(cell: Cell) -> Row:
    """The method that the conclusion is about; the first where only controls ran."""
    found = conclude(cell)
    row = None if found is None else cell.row(found.method)
    return cell.rows[0] if row is None else row


def badge(found: Conclusion) -> Markup:
    """Whether selecting pays, in two words."""
    text, sign = _ANSWERS[found.answer]
    kind = found.answer.replace(" ", "-")
    return tag("span", tag("i", sign, aria_hidden="true"), text, class_=f"badge {kind}")


def part_of_task(
    task: Task,
    runs: Sequence[CellRuns],
    styles: Mapping[str, Style],
    detail: Detail,
    *,
    number: int | None,
) -> Markup:
    """The part of a task; `number` is its place among several, None of the only one."""
    points = frontier_chart(task, styles, has_intervals=detail.seeds)
    frontier = figure("Quality against cost", points, _COSTS)
    cells = [
        _cell(cell, own, styles, detail, frontier if cell is task.cells[0] else None)
        for cell, own in zip(task.cells, runs, strict=True)
    ]
    title = tag("h1" if number is None else "h2", task.name)
    about = tag("p", describe(task), class_="about")
    return tag("section", title, about, *cells, id=f"task{number or 0}", class_="task")


def _cell(
    cell: Cell,
    own: CellRuns,
    styles: Mapping[str, Style],
    detail: Detail,
    frontier: Markup | None,
) -> Markup:
    found = conclude(cell)
    tables = [table_of(cell_table(cell), styles)]
    if (others := other_metrics_table(cell)) is not None:
        tables.append(table_of(others, styles))
    return tag(
        "article",
        _hero(cell, found),
        tag("div", *_quality(cell, own, styles, detail, frontier), class_="charts"),
        *tables,
        tag("p", typeset(verdict(cell)), class_="note") if len(cell.rows) > 1 else None,
        _section("What the selection did", _selection(cell, own, styles, detail)),
        _section("Samples", _samples(own.samples)),
    )


def _hero(cell: Cell, found: Conclusion | None) -> Markup:
    budget = tag("p", f"keep ratio {cell.keep_ratio:g}", class_="eyebrow")
    if found is None:
        row, metric = cell.rows[0], cell.metric
        value = f"{row.value.mean:.{metric.digits}f} {metric.unit}".rstrip()
        text = typeset(f"{row.method} ends at {metric.name} {value}.")
        return tag("div", budget, tag("p", text, class_="lead"), class_="hero")
    return tag(
        "div",
        tag("p", badge(found), tag("span", f"keep ratio {cell.keep_ratio:g}"), class_="eyebrow"),
        tag("p", typeset(found.found), class_="lead"),
        tag("p", tag("b", found.advice), " ", found.claim, class_="advice"),
        class_=f"hero {found.answer.replace(' ', '-')}",
    )


def _section(title: str, content: Sequence[Markup | None]) -> Markup | None:
    parts = [part for part in content if part is not None]
    return tag("section", tag("h3", title), *parts) if parts else None


def _quality(
    cell: Cell,
    own: CellRuns,
    styles: Mapping[str, Style],
    detail: Detail,
    frontier: Markup | None,
) -> list[Markup | None]:
    drawn: list[Markup | None] = []
    if len(cell.rows) > 1:
        ends = forest_chart(cell.rows, styles, cell.metric, has_seeds=detail.seeds)
        note = f"{_ENDS}{'; thin ticks are seeds.' if detail.seeds else '.'}"
        drawn += [figure("Where methods end", ends, note), frontier]
    runs = _drawn_runs(cell, own.runs, detail)
    has_seeds = any(len(by_seed) > 1 for by_seed in runs.values())
    has_bands = detail.seeds and has_seeds and len(runs) <= _MOST_WITH_BANDS
    note = "Means over seeds." if has_seeds else None
    if has_bands:
        note = "Means over seeds; the shade spans the seeds."
    return [*drawn, *_learning(cell, runs, styles, note, has_bands=has_bands)]


def _learning(
    cell: Cell, runs: Runs, styles: Mapping[str, Style], note: str | None, *, has_bands: bool
) -> list[Markup]:
    """The cell's metric over what was paid, and for prompts the share solved greedily."""
    drawn: list[Markup] = []
    for also, value in (("", value_of), ("greedy", lambda line: line.get("greedy"))):
        y_title = f"{also}, %" if also else axis_title(cell.metric)
        for name, x_title, place in axes_of(runs, cell.clock):
            if lines := learning_curves(runs, styles, place, has_bands=has_bands, value=value):
                title = f"Learning against {name}{f', {also}' if also else ''}"
                chart = line_chart(lines, x_title=x_title, y_title=y_title, label=title)
                drawn.append(figure(title, chart, note))
    return drawn


def _drawn_runs(cell: Cell, runs: Runs, detail: Detail) -> Runs:
    """Those whose lines are drawn: controls, the subject, and the best of the others."""
    first = (*CONTROLS, subject_of(cell).method)
    methods = sorted(runs, key=lambda method: method not in first)[: detail.lines]
    return {method: runs[method] for method in runs if method in methods}


def _selection(
    cell: Cell, own: CellRuns, styles: Mapping[str, Style], detail: Detail
) -> list[Markup | None]:
    row = subject_of(cell)
    shown = (row.method, *CONTROLS)
    metrics = runs_of({method: runs for method, runs in own.runs.items() if method in shown})
    points = detail.points
    charts = [
        *charts_of_harm(metrics, styles, num_points=points),
        picture_of_classes(metrics[row.method], list(row.classes)),
        *charts_of_selector(metrics[row.method], num_points=points),
        class_chart(row, detail, cell.metric.name),
    ]
    return [tag("div", *charts, class_="charts")] if any(charts) else []


def _samples(samples: Samples | None) -> list[Markup | None]:
    if samples is None:
        return []
    shown = gallery(samples.columns, samples.pictures, has_trusted=samples.has_trusted)
    return [] if shown is None else [tag("p", f"Of the run {samples.run}.", class_="note"), shown]
