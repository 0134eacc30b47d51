"""The whole page, from a report, the runs that it is about, and their samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from data_agent_lab.page.cells import CellRuns, badge, part_of_task, subject_of
from data_agent_lab.page.classes import shown_classes
from data_agent_lab.page.detail import Detail, detail_of
from data_agent_lab.page.document import document
from data_agent_lab.page.markup import Markup, tag
from data_agent_lab.page.styles import Style, drawn_marker, styles_of
from data_agent_lab.page.tables import table_of, typeset
from data_agent_lab.results.conclusions import Conclusion, conclude
from data_agent_lab.results.findings import Report
from data_agent_lab.results.tables import tables_over_tasks
from data_agent_lab.results.writing import notes

_LONG = (
    "An outline. The page of one task shows more, samples too: data-agent report, with the folder "
    "of its runs."
)


def page(report: Report, runs: Sequence[Sequence[CellRuns]]) -> str:
    """report.html: `runs` are by task and cell, as `report` has them."""
    methods = dict.fromkeys(
        row.method for task in report.tasks for cell in task.cells for row in cell.rows
    )
    styles = styles_of(list(methods))
    name = ", ".join(task.name for task in report.tasks)
    detail, is_alone = detail_of(report), len(report.tasks) == 1
    parts = [
        part_of_task(task, cells, styles, detail, number=None if is_alone else number)
        for number, (task, cells) in enumerate(zip(report.tasks, runs, strict=True))
    ]
    return document(
        name,
        nav=_chips(styles),
        main=tag("main", _overview(report, styles, detail), *parts),
        footer=_origin(report),
        numbers=_numbers(report, detail),
    )


def _numbers(report: Report, detail: Detail) -> dict[str, Any]:
    """comparison.json, and of the accuracies by class those that are drawn."""
    content = asdict(report)
    for task, found in zip(report.tasks, content["tasks"], strict=True):
        for cell, numbers in zip(task.cells, found["cells"], strict=True):
            subject = subject_of(cell)
            for row, own in zip(cell.rows, numbers["rows"], strict=True):
                is_told = row is subject and detail.samples
                shown = shown_classes(row, detail) if is_told else []
                own["classes"] = {name: own["classes"][name] for name in shown}
    return content


# Above all tasks.


def _chips(styles: Mapping[str, Style]) -> Markup | None:
    """A button for each method, where there are several."""
    chips = [
        tag(
            "button",
            drawn_marker(style),
            method,
            type="button",
            class_=f"chip {style.colour}",
            data_m=style.number,
            aria_pressed="false",
        )
        for method, style in sorted(styles.items(), key=lambda item: item[1].number or 0)
    ]
    return tag("nav", *chips, aria_label="Highlight a method") if len(chips) > 1 else None


def _overview(report: Report, styles: Mapping[str, Style], detail: Detail) -> Markup | None:
    if len(report.tasks) == 1:
        return None
    items = [
        _answer_line(
            f"{task.name}, keep ratio {cell.keep_ratio:g}", f"#task{number}", conclude(cell)
        )
        for number, task in enumerate(report.tasks)
        for cell in task.cells
    ]
    tables = [table_of(table, styles) for table in tables_over_tasks(report)]
    title = f"{len(report.tasks)} tasks"
    about = None if detail.samples else tag("p", _LONG, class_="about")
    return tag("section", tag("h1", title), about, tag("ol", *items, class_="answers"), *tables)


def _answer_line(name: str, link: str, found: Conclusion | None) -> Markup:
    if found is None:
        return tag("li", tag("a", name, href=link))
    return tag("li", badge(found), tag("a", name, href=link), tag("span", typeset(found.found)))


# Where numbers come from.


def _origin(report: Report) -> Markup:
    facts = [
        part
        for title, found in report.environment.items()
        for part in (tag("dt", title), tag("dd", *[tag("div", text) for text in found]))
    ]
    return tag(
        "footer",
        tag("h2", "Where the numbers come from"),
        tag("ul", *[tag("li", note) for note in notes(report)], class_="notes"),
        tag("dl", *facts),
        tag("p", "Every number of the tables is in this file as JSON too."),
    )
