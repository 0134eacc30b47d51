"""Writing report.html: the runs of every cell, and the samples of one of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from data_agent.runtime.files import write_text
from data_agent_lab.page.cells import CellRuns, Samples, subject_of
from data_agent_lab.page.compose import page
from data_agent_lab.page.curves import Runs
from data_agent_lab.page.detail import detail_of
from data_agent_lab.page.pictures import Pictures, fitting, load_pictures
from data_agent_lab.page.samples import read_samples
from data_agent_lab.results.conclusions import OURS
from data_agent_lab.results.findings import Cell, Report
from data_agent_lab.results.groups import Group
from data_agent_lab.results.records import Record

PAGE = "report.html"


def write_page(
    report: Report, groups: Sequence[Group], folder: Path, *, may_download: bool = False
) -> Path:
    """Write the page of a report on `groups` into a folder; returns its path.

    Args:
        report: what the runs come to.
        groups: the runs.
        folder: where the page is to lie.
        may_download: whether data that the runs name may come from the hub, to show samples.

    Raises:
        InputError: the numbers of a run's samples are damaged.
    """
    path = folder / PAGE
    write_text(path, page_of(report, groups, may_download=may_download))
    return path


def page_of(report: Report, groups: Sequence[Group], *, may_download: bool = False) -> str:
    """The page as a text; arguments and errors are those of `write_page`."""
    has_samples = detail_of(report).samples
    runs: list[list[CellRuns]] = []
    for group, task in zip(groups, report.tasks, strict=True):
        # Where there are samples the data are loaded, once for all budgets.
        load = cache(partial(load_pictures, group.config, may_download=may_download))
        by_cell = [(cell, _runs_of(group, cell)) for cell in task.cells]
        runs.append(
            [
                CellRuns(own, _samples(group.config, own, cell, load) if has_samples else None)
                for cell, own in by_cell
            ]
        )
    return page(report, runs)


def _runs_of(group: Group, cell: Cell) -> Runs:
    """The runs of a cell, in the order of its rows."""
    runs = group.at(cell.keep_ratio)
    return {row.method: runs[row.method] for row in cell.rows}


def _samples(
    config: Mapping[str, Any], runs: Runs, cell: Cell, load: Callable[[], Pictures | None]
) -> Samples | None:
    """Those of the first seed of the method that the conclusion is about."""
    for _, record in sorted(runs[subject_of(cell).method].items()):
        if (columns := read_samples(record.path)) is not None:
            pictures = fitting(load(), len(columns["index"]))
            has_trusted = OURS[0] == record.configuration["method"] and _has_trusted(config)
            return Samples(_name(record), columns, pictures, has_trusted)
    return None


def _has_trusted(config: Mapping[str, Any]) -> bool:
    return any(config.get(name) for name in ("trusted_rows", "trusted"))


def _name(record: Record) -> str:
    method, seed, _ = record.budget
    return f"{method}, seed {seed}"
