"""Finding a data set's splits and columns: on the Hugging Face hub, in parquet files or images."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from data_agent.errors import InputError

logger = logging.getLogger(__name__)

EVAL_SPLITS = ("test", "validation", "valid", "val")
_IMAGE_NAMES = ("image", "img")
_LABEL_NAMES = ("label", "labels", "fine_label", "target", "class", "category")
_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm")
_SPLIT_WORDS = ("train", *EVAL_SPLITS)


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Images still encoded, and their labels.

    Args:
        rows: data set whose column `column` holds `{"bytes", "path"}`.
        column: name of that column.
        labels: int64 `[N]` as in the file; -1 where there is none.
        class_names: names by label; None if the labels are plain integers.
    """

    rows: datasets.Dataset
    column: str
    labels: Tensor
    class_names: tuple[str, ...] | None


def open_splits(data: str) -> dict[str, datasets.Dataset]:
    """Load the splits of a hub name, a parquet file, a folder of parquet files or of images.

    Raises:
        InputError: no such path, no usable files in it, or a name that the hub does not give.
    """
    path = Path(data).expanduser()
    if path.is_dir():
        return _open_folder(path)
    if path.is_file():
        if path.suffix != ".parquet":
            raise InputError(f"--data {data} is a file, but not a .parquet file. {_LOCAL_FORMS}")
        return _load(data, "parquet", data_files={"train": [str(path)]})
    return _open_hub(data, suffixes=(".parquet",), forms=_LOCAL_FORMS)


def open_texts(data: str) -> dict[str, datasets.Dataset]:
    """Load the splits of a hub name, a file of rows, or a folder of such files with split names.

    Files of rows are parquet, JSON lines (.json, .jsonl), tables (.csv, .tsv) or plain text (.txt,
    a line a row). Each split has its own columns. A folder may be what `save_to_disk` wrote.

    Raises:
        InputError: no such path, no usable files in it, several kinds of files, or a name that the
            hub does not give.
    """
    path = Path(data).expanduser()
    if not path.exists():
        return _open_hub(data, suffixes=tuple(_TEXT_BUILDERS), forms=_TEXT_FORMS)
    if any((path / name).is_file() for name in ("dataset_dict.json", "state.json")):
        return _splits(data, _TEXT_FORMS, lambda: datasets.load_from_disk(str(path)))
    found = sorted(path.rglob("*")) if path.is_dir() else [path]
    files = [file for file in found if file.suffix in _TEXT_BUILDERS]
    builders = {_TEXT_BUILDERS[file.suffix] for file in files}
    if len(builders) != 1:
        kinds = ", ".join(sorted({file.suffix or file.name for file in found if file.is_file()}))
        raise InputError(
            f"--data {data} holds {kinds or 'no files'}; files of one kind are expected. "
            f"{_TEXT_FORMS}"
        )
    by_split: dict[str, list[str]] = {}
    for file in files:
        split = _split_of(file.relative_to(path)) if path.is_dir() else "train"
        by_split.setdefault(split, []).append(str(file))
    builder = builders.pop()
    builder, options = ("csv", {"sep": "\t"}) if builder == "tsv" else (builder, {})
    loaded: dict[str, datasets.Dataset] = {}
    for split, names in by_split.items():
        loaded |= _load(data, builder, forms=_TEXT_FORMS, data_files={split: names}, **options)
    return loaded


def _open_hub(data: str, *, suffixes: tuple[str, ...], forms: str) -> dict[str, datasets.Dataset]:
    """A data set of the hub, unless its name is a path, of which there is nothing."""
    looks_local = data.startswith((".", "~", "/")) or data.count("/") > 1 or "\\" in data
    if looks_local or data.endswith(suffixes):
        raise InputError(f"--data {data} does not exist. {forms}")
    name, _, configuration = data.partition(":")
    return _load(data, name, forms=forms, name=configuration or None)


def read_split(
    rows: datasets.Dataset, *, image_column: str | None, label_column: str | None
) -> Split:
    """Find a split's image and label columns.

    Args:
        rows: the split.
        image_column: its name; None takes the only column of type Image, or one named as usual.
        label_column: its name; None takes the only ClassLabel, or an integer named as usual.

    Raises:
        InputError: no such column, or none that fits; the message lists those there are.
    """
    features = cast("Mapping[str, Any]", rows.features)
    images = [name for name, kind in features.items() if _is_image(kind)]
    image = _choose(features, images, image_column, _IMAGE_NAMES, "image")
    classes = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    integers = [name for name, kind in features.items() if _is_integer(kind)]
    if label_column is not None or len(classes) != 1:
        usual = [name for name in _LABEL_NAMES if name in integers]
        classes = integers if label_column is not None else usual[:1]
    label = _choose(features, classes, label_column, _LABEL_NAMES, "label")
    table = cast("Any", rows.select_columns([label]).with_format("arrow"))[:]
    labels = torch.from_numpy(table.column(label).fill_null(-1).to_numpy().astype("int64"))
    kind = features[label]
    names = tuple(kind.names) if isinstance(kind, datasets.ClassLabel) else None
    encoded = rows.select_columns([image]).cast_column(image, datasets.Image(decode=False))
    return Split(encoded, image, labels, names)


def read_labels(source: str, *, num_rows: int) -> Tensor:
    """Labels of a file of its own, one for each row of the training data.

    Args:
        source: PARQUET:COLUMN.
        num_rows: rows of the training data.

    Returns:
        int64 `[num_rows]`.

    Raises:
        InputError: no such file or column, no integers, an empty cell, or another number of rows.
    """
    name, _, column = source.rpartition(":")
    path = Path(name).expanduser()
    if not path.is_file():
        raise InputError(f"--train-labels {source}: the file {path} does not exist.")
    try:
        names = pq.read_schema(path).names
        cells = pq.read_table(path, columns=[column]).column(column) if column in names else None
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"--train-labels {source} could not be read: {error}.") from error
    if cells is None:
        raise InputError(
            f"--train-labels {source}: {path} has no column {column!r}, but {', '.join(names)}."
        )
    if not pa.types.is_integer(cells.type) or cells.null_count:
        raise InputError(
            f"--train-labels {source}: the column holds {cells.type} and {cells.null_count} empty "
            "cells; expected one integer a row."
        )
    if len(cells) != num_rows:
        raise InputError(
            f"--train-labels {source} holds {len(cells)} labels, but the training data has "
            f"{num_rows} rows; row i must belong to row i."
        )
    return torch.from_numpy(cells.to_numpy().astype("int64"))


_TEXT_BUILDERS = {
    **{".parquet": "parquet", ".json": "json", ".jsonl": "json", ".txt": "text"},
    **{".csv": "csv", ".tsv": "tsv"},
}
_TEXT_FORMS = (
    "Expected a .parquet, .jsonl, .json, .csv, .tsv or .txt file, a folder of files of one kind "
    "with split names (train.jsonl, validation.jsonl), a folder that save_to_disk() wrote, or a "
    "data set's name on the Hugging Face hub."
)
_LOCAL_FORMS = (
    "Expected a .parquet file, a folder of parquet files with split names (train.parquet, "
    "test.parquet), a folder of images (train/CLASS/NAME.png), or a data set's name on the "
    "Hugging Face hub."
)


def _open_folder(path: Path) -> dict[str, datasets.Dataset]:
    parquet = sorted(path.rglob("*.parquet"))
    if parquet:
        files: dict[str, list[str]] = {}
        for file in parquet:
            files.setdefault(_split_of(file.relative_to(path)), []).append(str(file))
        return _load(str(path), "parquet", data_files=files)
    if any(file.suffix.lower() in _IMAGE_SUFFIXES for file in path.rglob("*")):
        return _load(str(path), "imagefolder", data_dir=str(path))
    raise InputError(f"--data {path} holds neither parquet files nor images. {_LOCAL_FORMS}")


def _split_of(file: Path) -> str:
    """The split a parquet file belongs to, by its name or else its folders'; else train."""
    for part in (file.stem, *reversed(file.parts[:-1])):
        words = part.lower().replace("_", "-").replace(".", "-").split("-")
        for word in words:
            if word in _SPLIT_WORDS:
                return word
    return "train"


def _load(
    data: str, builder: str, *, forms: str = _LOCAL_FORMS, **options: Any
) -> dict[str, datasets.Dataset]:
    return _splits(data, forms, lambda: datasets.load_dataset(builder, **options))


def _splits(data: str, forms: str, load: Callable[[], object]) -> dict[str, datasets.Dataset]:
    try:
        loaded = load()
    except Exception as error:  # datasets lets errors of many libraries through
        cause = error.__cause__ or error
        raise InputError(
            f"--data {data} could not be loaded: {str(cause) or type(cause).__name__}. {forms} The "
            "hub needs a network."
        ) from error
    if isinstance(loaded, datasets.Dataset):  # a single one, from the disk
        return {"train": loaded}
    return {str(name): split for name, split in cast("datasets.DatasetDict", loaded).items()}


def _choose(
    features: Mapping[str, Any],
    fitting: list[str],
    wanted: str | None,
    usual: tuple[str, ...],
    what: str,
) -> str:
    """The wanted column, or the only fitting one, or the fitting one with a usual name."""
    if wanted is not None and wanted in fitting:
        return wanted
    named = [name for name in usual if name in fitting]
    if wanted is None and (len(fitting) == 1 or named):
        return named[0] if named else fitting[0]
    found = ", ".join(f"{name} ({_describe(kind)})" for name, kind in features.items())
    problem = f"no {what} column was found" if wanted is None else f"column {wanted!r} does not fit"
    expected = "images" if what == "image" else "class labels or integers"
    raise InputError(
        f"{problem}: a column of {expected} is expected; the data has {found}. Name it with "
        f"--{what}-column; in an image folder the classes are folders (train/CLASS/NAME.png)."
    )


def _is_image(kind: Any) -> bool:
    """True for images, and for the bytes that parquet files of other programs hold."""
    if isinstance(kind, dict):
        return set(cast("dict[str, Any]", kind)) == {"bytes", "path"}
    is_bytes = isinstance(kind, datasets.Value) and kind.dtype == "binary"
    return isinstance(kind, datasets.Image) or is_bytes


def _is_integer(kind: Any) -> bool:
    if isinstance(kind, datasets.ClassLabel):
        return True
    return isinstance(kind, datasets.Value) and kind.dtype.lstrip("u").startswith("int")


def _describe(kind: Any) -> str:
    return kind.dtype if isinstance(kind, datasets.Value) else type(kind).__name__
