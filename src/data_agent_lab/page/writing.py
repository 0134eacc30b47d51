"""Writing report.html: the runs of every cell, and the samples of one of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_agent.runtime.files import write_text
from data_agent_lab.page.cells import CellRuns, Samples
from data_agent_lab.page.compose import page
from data_agent_lab.page.curves import Runs
from data_agent_lab.page.pictures import Pictures, load_pictures
from data_agent_lab.page.samples import read_samples
from data_agent_lab.results.conclusions import conclude
from data_agent_lab.results.findings import Cell, Report
from data_agent_lab.results.groups import Group
from data_agent_lab.results.records import Record

PAGE = "report.html"


def write_page(report: Report, groups: Sequence[Group], folder: Path) -> Path:
    """Write the page of a report on `groups` into a folder; returns its path.

    Raises:
        InputError: the numbers of a run's samples are damaged.
    """
    runs = [
        [_cell_runs(group, cell) for cell in task.cells]
        for group, task in zip(groups, report.tasks, strict=True)
    ]
    path = folder / PAGE
    write_text(path, page(report, runs))
    return path


def _cell_runs(group: Group, cell: Cell) -> CellRuns:
    runs = group.at(cell.keep_ratio)
    by_row = {row.method: runs[row.method] for row in cell.rows}
    return CellRuns(by_row, _samples(group.config, by_row, cell))


def _samples(config: Mapping[str, Any], runs: Runs, cell: Cell) -> Samples | None:
    """Those of the first seed of the method that the conclusion is about."""
    found = conclude(cell)
    method = next(iter(runs)) if found is None else found.method
    for _, record in sorted(runs[method].items()):
        if (columns := read_samples(record.path)) is not None:
            pictures = _fitting(load_pictures(config), len(columns["index"]))
            return Samples(_name(record), columns, pictures)
    return None


def _fitting(pictures: Pictures | None, num_samples: int) -> Pictures | None:
    """None where the data are not those that the run trained on."""
    return pictures if pictures is not None and pictures.count == num_samples else None


def _name(record: Record) -> str:
    method, seed, _ = record.budget
    return f"{method}, seed {seed}"
