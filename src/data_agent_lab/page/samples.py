"""The numbers of every sample that a run left in samples.parquet, and which of them to look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_agent.errors import InputError
from data_agent.runtime.files import check_no_link

SAMPLES = "samples.parquet"  # in a run's folder, one row a sample
MOST_SHOWN = 18  # of a group
Columns = Mapping[str, np.ndarray]
"""`[N]` each: index; where there are such, visits, loss, margin, trusted, score, suspected, label
and suggested_label, in floating point with NaN where a sample has none."""


@dataclass(frozen=True, slots=True)
class Group:
    """Samples that have something in common."""

    title: str
    note: str
    rows: np.ndarray  # int64, places in the columns, the most telling first


def read_samples(folder: Path) -> Columns | None:
    """The numbers in a run's samples.parquet; None where there is none.

    Raises:
        InputError: the file is damaged, or lacks a column.
    """
    path = folder / SAMPLES
    if not path.is_file():
        return None
    check_no_link(path)
    import pyarrow as pa  # takes long to import
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
        columns = {
            field.name: _numbers(table.column(field.name))
            for field in table.schema
            if not pa.types.is_string(field.type)  # names of files
        }
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(
            f"{path} is damaged ({error}). Delete it, and the page comes without samples."
        ) from error
    if "index" not in columns:
        raise InputError(
            f"{path} has no column index; expected one row a sample as a run of data-agent writes "
            "it. Delete it, and the page comes without samples."
        )
    return columns


def _numbers(column: Any) -> np.ndarray:
    """Numbers and truth values in floating point, anything else as it is."""
    values = column.to_numpy(zero_copy_only=False)
    return values if values.dtype.kind in "iu" else values.astype(np.float64)


def groups_of(
    columns: Columns, *, has_trusted: bool = False, count: int = MOST_SHOWN
) -> list[Group]:
    """The samples that are worth a look, at most `count` of each kind.

    With `has_trusted` scores say how much samples are like rows that the user trusts.
    """
    scored = _scored_highest(columns, _LIKE_TRUSTED if has_trusted else _SCORED)
    groups = [_never_believed(columns), scored, *_by_visits(columns)]
    found = (group for group in groups if group is not None and len(group.rows))
    return [Group(group.title, group.note, group.rows[:count]) for group in found]


def _never_believed(columns: Columns) -> Group | None:
    """Another class was likelier on average, or it is suspected; suspected ones come first."""
    if "margin" not in columns:
        return None
    margin = columns["margin"]
    is_suspected = np.nan_to_num(columns.get("suspected", np.zeros(len(margin)))) > 0
    rows = np.flatnonzero((margin < 0) | (is_suspected & np.isfinite(margin)))
    order = np.lexsort((margin[rows], ~is_suspected[rows]))
    return Group(
        "Never believed",
        "The label is suspected, or another class was likelier on average over training: the "
        "first labels to check.",
        rows[order],
    )


def _to_choose(columns: Columns) -> tuple[np.ndarray, str]:
    """Places of the samples that a method may choose, and which it may not in a sentence."""
    is_trusted = columns.get("trusted", np.zeros(len(columns["index"]))) > 0
    words = " Trusted rows, which are in every epoch, are left out." if is_trusted.any() else ""
    return np.flatnonzero(~is_trusted), words


_LIKE_TRUSTED = "Most like trusted rows", "What trusted rows taught the agent to choose."
_SCORED = "Scored highest", "What the method would choose first."


def _scored_highest(columns: Columns, words: tuple[str, str]) -> Group | None:
    if "score" not in columns:
        return None
    (title, note), (rows, left_out) = words, _to_choose(columns)
    score = columns["score"][rows]
    rows, score = rows[np.isfinite(score)], score[np.isfinite(score)]
    if len(np.unique(score)) < 2:
        return None
    return Group(title, note + left_out, rows[np.argsort(-score, kind="stable")])


def _by_visits(columns: Columns) -> list[Group]:
    if "visits" not in columns:
        return []
    rows, left_out = _to_choose(columns)
    visits = columns["visits"][rows]
    if len(np.unique(visits)) < 2:
        return []
    # Of equally many visits those that say most come first: the highest score, the lowest.
    telling = columns.get("score", columns.get("margin", np.zeros(len(columns["index"]))))
    score = np.nan_to_num(telling[rows])
    most, least = rows[np.lexsort((-score, -visits))], rows[np.lexsort((score, visits))]
    highest, lowest = f"{visits.max():,.0f}", f"{visits.min():,.0f}"
    return [
        Group("Chosen most", f"Up to {highest} visits in training.{left_out}", most),
        Group("Chosen least", f"As few as {lowest} visits in training.{left_out}", least),
    ]
