"""Which row or image file of the user's data a training sample was read from."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    import datasets  # takes long to import

NO_ROW = -1
"""Row of a sample that is none of `--data`: a copy, a foreign one, one of `--trusted`."""


def files_of(images: datasets.Dataset, data: str) -> Sequence[str]:
    """Of each row the image file, below the folder `data` if it lies there; none of tables.

    Args:
        images: of one column, {"bytes", "path"}.
        data: what `--data` named.
    """
    (name,) = images.column_names
    chunks: Any = images.with_format("arrow")[:][name].chunks
    if any(chunk.field("bytes").null_count < len(chunk) for chunk in chunks):
        return ()
    root = os.path.expanduser(data)
    starts = tuple(f"{where(root)}{os.sep}" for where in (os.path.abspath, os.path.realpath))
    paths = [path for chunk in chunks for path in chunk.field("path").to_pylist()]
    return [_below(path, starts) for path in paths]


def _below(path: str, starts: Sequence[str]) -> str:
    start = next((start for start in starts if path.startswith(start)), "")
    return path[len(start) :]


def followed(rows: Tensor | None, count: int) -> Tensor | None:
    """Rows int64 `[N + count]` with `count` samples behind that are none of the data."""
    return None if rows is None else torch.cat([rows, torch.full((count,), NO_ROW)])


def origin_columns(data: Any) -> dict[str, NDArray[Any]]:
    """Columns `[N]` for the file of a run's samples: "row", and "file" where images lie in files.

    A row counts from 0 through the files of the training split in order, without lines of names.
    What is no row of the data has None. Data that know of no rows give no columns.
    """
    rows: Tensor | None = getattr(data, "rows", None)
    if rows is None:
        return {}
    found, files = rows.tolist(), getattr(data, "files", ())
    columns = {"row": [row if row >= 0 else None for row in found]}
    if files:
        columns["file"] = [files[row] if row >= 0 else None for row in found]
    return {name: np.array(cells, dtype=object) for name, cells in columns.items()}
