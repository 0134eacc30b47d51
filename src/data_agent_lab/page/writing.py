"""Writing report.html: the runs of every cell, and the samples of one of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_agent.runtime.files import write_text
from data_agent_lab.page.cells import CellRuns, Samples, subject_of
from data_agent_lab.page.compose import page
from data_agent_lab.page.curves import Runs
from data_agent_lab.page.detail import detail_of
from data_agent_lab.page.pictures import Pictures, load_pictures
from data_agent_lab.page.samples import read_samples
from data_agent_lab.results.conclusions import OURS
from data_agent_lab.results.findings import Cell, Report
from data_agent_lab.results.groups import Group
from data_agent_lab.results.records import Record

PAGE = "report.html"


def write_page(report: Report, groups: Sequence[Group], folder: Path) -> Path:
    """Write the page of a report on `groups` into a folder; returns its path.

    Raises:
        InputError: the numbers of a run's samples are damaged.
    """
    path = folder / PAGE
    write_text(path, page_of(report, groups))
    return path


def page_of(report: Report, groups: Sequence[Group]) -> str:
    """The page of a report on `groups`; `InputError` as of `write_page`."""
    has_samples = detail_of(report).samples
    runs = [
        [_cell_runs(group, cell, has_samples=has_samples) for cell in task.cells]
        for group, task in zip(groups, report.tasks, strict=True)
    ]
    return page(report, runs)


def _cell_runs(group: Group, cell: Cell, *, has_samples: bool) -> CellRuns:
    runs = group.at(cell.keep_ratio)
    by_row = {row.method: runs[row.method] for row in cell.rows}
    return CellRuns(by_row, _samples(group.config, by_row, cell) if has_samples else None)


def _samples(config: Mapping[str, Any], runs: Runs, cell: Cell) -> Samples | None:
    """Those of the first seed of the method that the conclusion is about."""
    for _, record in sorted(runs[subject_of(cell).method].items()):
        if (columns := read_samples(record.path)) is not None:
            pictures = _fitting(load_pictures(config), len(columns["index"]))
            has_trusted = OURS[0] == record.configuration["method"] and _has_trusted(config)
            return Samples(_name(record), columns, pictures, has_trusted)
    return None


def _has_trusted(config: Mapping[str, Any]) -> bool:
    return any(config.get(name) for name in ("trusted_rows", "trusted"))


def _fitting(pictures: Pictures | None, num_samples: int) -> Pictures | None:
    """None where the data are not those that the run trained on."""
    return pictures if pictures is not None and pictures.count == num_samples else None


def _name(record: Record) -> str:
    method, seed, _ = record.budget
    return f"{method}, seed {seed}"
