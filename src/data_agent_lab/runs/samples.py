"""The numbers of every sample of a run, as files: `samples.parquet`, and the same as CSV."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import csv, parquet

from data_agent.errors import InputError
from data_agent.runtime.files import check_no_link, replacing

SAMPLES = "samples.parquet"
IN_DATA = "index_in_data"  # of a run that keeps a part of its data: positions in all of them
_CLASS_NAMES = b"class_names"

Arrays = Mapping[str, NDArray[Any]]
"""Columns by name, `[N]` each, as `Selector.table()` returns them."""


def write_columns(path: Path, columns: Arrays, *, class_names: Sequence[str] = ()) -> None:
    """Write PATH.parquet and PATH.csv, each whole or not at all; nan is written as no value.

    Args:
        path: the Parquet file; the CSV lies beside it.
        columns: `[N]` each.
        class_names: kept in the Parquet file's metadata.
    """
    arrays = {name: pa.array(values, from_pandas=True) for name, values in columns.items()}
    table = pa.table(arrays)
    names = json.dumps(list(class_names)).encode()
    table = table.replace_schema_metadata({_CLASS_NAMES: names})
    with replacing(path) as temporary:
        parquet.write_table(table, temporary)
    with replacing(path.with_suffix(".csv")) as temporary:
        csv.write_csv(table, temporary)


def read_columns(path: Path) -> tuple[dict[str, NDArray[Any]], tuple[str, ...]]:
    """The columns of a Parquet or CSV file, and the classes' names where they are known.

    Raises:
        InputError: there is no such file, or it is neither.
    """
    check_no_link(path)
    try:
        is_csv = path.suffix.lower() == ".csv"
        table = csv.read_csv(path) if is_csv else parquet.read_table(path)
        names = json.loads((table.schema.metadata or {}).get(_CLASS_NAMES, b"[]"))
    except FileNotFoundError as error:
        raise InputError(
            f"there is no file {path}. Give the folder of a finished run, or a Parquet or CSV file "
            "with a row for each sample."
        ) from error
    except (pa.ArrowInvalid, OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as Parquet or CSV ({error}).") from error
    columns = {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names}
    return columns, tuple(str(name) for name in names)


def kept_rows(path: Path, num_samples: int, num_trusted: int) -> NDArray[np.int64]:
    """Positions of the samples that a run with `--keep-index PATH` trains on, ascending.

    Args:
        path: names those that are kept, see `read_index`.
        num_samples: in the data set.
        num_trusted: its last samples, of a data set of their own, which are always kept.
    """
    last = num_samples - num_trusted
    index = read_index(path, num_samples)
    return np.concatenate([index[index < last], np.arange(last, num_samples)])


def read_index(path: Path, num_samples: int) -> NDArray[np.int64]:
    """The column "index" of a file: which samples of a data set are kept, ascending.

    Raises:
        InputError: no such file or column, or no distinct positions in [0, num_samples).
    """
    columns, _ = read_columns(path)
    if "index" not in columns:
        raise InputError(
            f"{path} has no column index, but {', '.join(columns)}. `data-agent audit RUN --drop "
            "KINDS` writes such a file."
        )
    index = np.asarray(columns["index"])
    if index.dtype.kind not in "iu" or not len(index):
        raise InputError(f"{path}: index holds {index.dtype}; expected whole numbers, one or more.")
    kept = np.unique(index).astype(np.int64)
    if len(kept) != len(index) or kept[0] < 0 or kept[-1] >= num_samples:
        raise InputError(
            f"{path}: index is to name samples from 0 to {num_samples - 1}, each once; it names "
            f"{len(index)}, of them {len(kept)} different, from {kept[0]} to {kept[-1]}. Is it an "
            "index of these data?"
        )
    return kept
