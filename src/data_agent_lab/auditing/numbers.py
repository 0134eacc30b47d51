"""What an audit reads: numbers of every sample, of a run or of the user's own making."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_agent.errors import InputError
from data_agent.suspicion import suspicion
from data_agent_lab.runs.samples import SAMPLES, Arrays, read_columns

_FLOATS = ("loss", "mean_loss", "mean_probability", "margin")
_CLASSES = ("label", "suggested_label")


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
    class_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.index)

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
        InputError: neither "mean_loss" nor "loss" is there, or "index" names a sample twice.
    """
    found: dict[str, Any] = {}
    for name in _FLOATS:
        if name in columns:
            found[name] = np.asarray(columns[name], dtype=np.float64)
    for name in (*_CLASSES, "visits"):
        if name in columns:
            values = np.asarray(columns[name], dtype=np.float64)  # a gap of a CSV is nan
            found[name] = np.nan_to_num(values, nan=-1).astype(np.int64)
    mean_loss = found.setdefault("mean_loss", found.get("loss"))
    if mean_loss is None:
        raise InputError(
            f"the samples have the columns {', '.join(columns)}; an audit needs mean_loss (or "
            "loss), one number a sample, and label, margin and suggested_label for more."
        )
    index = np.asarray(columns.get("index", np.arange(len(mean_loss))), dtype=np.int64)
    if len(np.unique(index)) != len(index):
        raise InputError("index names a sample twice; expected a row for each sample.")
    return SampleNumbers(index=index, class_names=class_names, **found)


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
