"""What an audit reads: numbers of every sample, of a run or of the user's own making."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from data_agent.errors import InputError
from data_agent.suspicion import suspicion
from data_agent_lab.data.origins import NO_ROW
from data_agent_lab.runs.samples import IN_DATA, SAMPLES, Arrays, read_columns

_FLOATS = ("loss", "mean_loss", "mean_probability", "margin")
_CLASSES = ("label", "suggested_label")


class Origin(TypedDict):
    """Where in the user's data a sample was read from."""

    row: int | None
    file: str | None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SampleNumbers:
    """Numbers of N samples; a column that nobody brought is None.

    Raises:
        InputError: no losses, or columns of different lengths.
    """

    index: NDArray[np.int64]  # positions in the data set, distinct
    mean_loss: NDArray[np.floating]  # over all visits; nan where there was none
    visits: NDArray[np.int64] | None = None
    loss: NDArray[np.floating] | None = None  # of the last visit
    mean_probability: NDArray[np.floating] | None = None  # of the label, in [0, 1]
    margin: NDArray[np.floating] | None = None  # of the label over the likeliest other, in [-1, 1]
    label: NDArray[np.int64] | None = None  # -1 where there is none
    suggested_label: NDArray[np.int64] | None = None
    trusted: NDArray[np.bool_] | None = None  # which are never left out
    row: NDArray[np.int64] | None = None  # of the user's data, or NO_ROW
    file: NDArray[Any] | None = None  # of the user's data; None where there is none
    class_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.index)

    def place_of(self, index: int) -> int:
        """The row of the sample at a position in the data set: its place in what was trained on."""
        return int(np.flatnonzero(self.index == index)[0])

    def origin(self, place: int) -> Origin:
        """The row and the file of the user's data that the sample at a place here is from."""
        row = None if self.row is None else int(self.row[place])
        file = None if self.file is None else self.file[place]
        return {
            "row": None if row == NO_ROW else row,
            "file": file if file and isinstance(file, str) else None,
        }

    def name_of(self, label: int) -> str:
        """The class's name, or its number where no name is known."""
        return self.class_names[label] if 0 <= label < len(self.class_names) else str(label)

    def suspicion(self) -> NDArray[np.float64]:
        """How suspicious each label is, `[N]` in [0, 1], by the columns that are known."""
        columns = {"mean_loss": self.mean_loss, "margin": self.margin, "loss": self.loss}
        return suspicion({name: c for name, c in columns.items() if c is not None})

    @property
    def num_classes(self) -> int:
        """Classes that are known by a name, a label or a suggestion; 0 where there are none."""
        seen = [int(c.max()) + 1 for c in (self.label, self.suggested_label) if c is not None]
        return max([len(self.class_names), *seen])


def numbers_of(columns: Arrays, class_names: tuple[str, ...] = ()) -> SampleNumbers:
    """The numbers among the columns of a file or of `Selector.table()`; others are left out.

    Raises:
        InputError: no row, neither "mean_loss" nor "loss", a column that holds no numbers, or an
            "index" that names a sample twice or has gaps.
    """
    known = (*_FLOATS, *_CLASSES, "visits", "trusted")
    found: dict[str, Any] = {n: _numbers(n, columns[n]) for n in known if n in columns}
    for name in found.keys() & {*_CLASSES, "visits"}:
        found[name] = np.nan_to_num(found[name], nan=-1).astype(np.int64)
    if "trusted" in found:
        found["trusted"] = np.nan_to_num(found["trusted"]) > 0
    if "row" in columns and np.asarray(columns["row"]).dtype.kind in "iuf":  # else it is a name
        found["row"] = np.nan_to_num(_numbers("row", columns["row"]), nan=NO_ROW).astype(np.int64)
    if "file" in columns:
        found["file"] = np.asarray(columns["file"], dtype=object)
    mean_loss = found.setdefault("mean_loss", found.get("loss"))
    if mean_loss is None:
        raise InputError(
            f"the samples have the columns {', '.join(columns)}; an audit needs mean_loss (or "
            "loss), one number a sample, and label, margin and suggested_label for more."
        )
    if not len(mean_loss):
        raise InputError("there is no row; expected one for each sample.")
    place = columns.get(IN_DATA, columns.get("index", np.arange(len(mean_loss))))
    return SampleNumbers(index=_positions(place), class_names=class_names, **found)


def _positions(column: Any) -> NDArray[np.int64]:
    index = _numbers("index", column)
    if not np.isfinite(index).all() or (index != np.floor(index)).any():
        raise InputError("index has gaps or fractions; expected a whole number in each row.")
    if len(np.unique(index)) != len(index):
        raise InputError("index names a sample twice; expected a row for each sample.")
    return index.astype(np.int64)


def _numbers(name: str, values: Any) -> NDArray[np.float64]:
    """A column as finite numbers, NaN where it has a gap."""
    try:
        found = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"the column {name} holds other things than numbers ({error}). Classes are their "
            "numbers, from 0 on."
        ) from error
    if len(infinite := np.flatnonzero(np.isinf(found))):
        raise InputError(
            f"the column {name} is infinite in row {infinite[0]}, and in {len(infinite) - 1} more; "
            "expected finite numbers. Leave a gap where there is none."
        )
    return found


def read_numbers(path: Path) -> SampleNumbers:
    """The numbers in a run's folder, or in a Parquet or CSV file.

    Raises:
        InputError: there are none, or they are not what an audit needs.
    """
    if path.is_dir() and not (path / SAMPLES).exists():
        raise InputError(
            f"{path} has no {SAMPLES}: it is no run's folder, the run is unfinished, or an earlier "
            "version made it. Finish it with train --resume, or train again."
        )
    return numbers_of(*read_columns(path / SAMPLES if path.is_dir() else path))
