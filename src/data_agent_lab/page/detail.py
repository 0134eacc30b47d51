"""How much of a report is drawn, so that the page of the largest stays small."""

from __future__ import annotations

from dataclasses import dataclass

from data_agent_lab.results.findings import Report

_LONG = 60  # rows in all tables
_POINTS = 240  # of a line in all charts of its kind


@dataclass(frozen=True, slots=True)
class Detail:
    """Limits of what is drawn for each task at each budget."""

    points: int  # of a line over epochs
    lines: int  # of a chart of learning curves
    classes: int  # of a chart of classes
    seeds: bool  # whether each is drawn, with intervals wherever there are some
    samples: bool  # whether there are pictures of them


def detail_of(report: Report) -> Detail:
    """All that can be told apart for a few tables; of many their outlines."""
    cells = [cell for task in report.tasks for cell in task.cells]
    is_long = sum(len(cell.rows) for cell in cells) > _LONG
    return Detail(
        points=max(8, min(60, _POINTS // len(cells))),
        lines=4 if is_long else 9,
        classes=6 if is_long else 24,
        seeds=not is_long,
        samples=not is_long,
    )
