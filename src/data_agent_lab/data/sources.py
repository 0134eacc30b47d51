"""Finding a data set's splits: on the Hugging Face hub, in files of rows, or in image folders."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import datasets

from data_agent.errors import InputError
from data_agent_lab.data.folders import find_images, open_image_folder, split_named
from data_agent_lab.data.labels import did_you_mean
from data_agent_lab.data.tables import read_table

logger = logging.getLogger(__name__)

_EVAL_SPLITS = ("test", "validation", "valid", "val")
_ROW_FILES = {
    **{".parquet": "parquet", ".json": "json", ".jsonl": "json", ".txt": "text"},
    **{".csv": "table", ".tsv": "table", ".tab": "table"},
}
_ROW_FORMS = (
    "Expected a .parquet, .jsonl, .json, .csv, .tsv or .txt file, a folder of files of one kind "
    "with split names (train.jsonl, validation.jsonl), a folder that save_to_disk() wrote, or a "
    "data set's name on the Hugging Face hub."
)
_IMAGE_FILES = {".parquet": "parquet"}
_IMAGE_FORMS = (
    "Expected a .parquet file, a folder of parquet files with split names (train.parquet, "
    "test.parquet), a folder of images (train/CLASS/NAME.png), or a data set's name on the "
    "Hugging Face hub."
)
Splits = dict[str, datasets.Dataset]


def open_images(data: str) -> Splits:
    """Load the splits of a hub name, a parquet file, a folder of parquet files or of images.

    Raises:
        InputError: no such path, no usable files in it, or a name that the hub does not give.
    """
    path = Path(data).expanduser()
    num_images = len(find_images(path)) if path.is_dir() else 0
    if num_images and not any(path.rglob("*.parquet")) and not _is_saved(path):
        return open_image_folder(path)
    if num_images:
        logger.warning("%s: %d image files beside the data are left out.", data, num_images)
    return _open(data, _IMAGE_FILES, _IMAGE_FORMS)


def open_rows(data: str) -> Splits:
    """Load the splits of a hub name, a file of rows, or a folder of such files with split names.

    Each split has its own columns. A folder may be what `save_to_disk` wrote.

    Raises:
        InputError: no such path, no usable files in it, several kinds of files, or a name that the
            hub does not give.
    """
    return _open(data, _ROW_FILES, _ROW_FORMS)


def choose_splits(
    splits: Splits, is_usable: Callable[[datasets.Dataset], bool]
) -> tuple[datasets.Dataset, str | None]:
    """The training split, and the name of the first that can be evaluated on, if there is one.

    Raises:
        InputError: there is no training split, or it has fewer than two rows.
    """
    if "train" not in splits:
        raise InputError(
            f"the data has no split 'train', but {', '.join(splits)}. Name the training file "
            "train.parquet (or .jsonl, .csv, .txt), or its folder train."
        )
    train = splits["train"]
    if len(train) < 2:
        raise InputError(f"the training data has {len(train)} rows; it needs two or more.")
    for name in (name for name in _EVAL_SPLITS if name in splits):
        if is_usable(splits[name]):
            return train, name
        logger.info("split %r has unlabelled rows; it is not used for evaluation.", name)
    return train, None


def _open(data: str, kinds: Mapping[str, str], forms: str) -> Splits:
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()  # a log would have a line for each of their steps
    try:
        loaded = _load(data, kinds, forms)
    except InputError:
        raise
    except Exception as error:  # datasets lets errors of many libraries through
        cause = error.__cause__ or error
        raise InputError(
            f"--data {data} could not be loaded: {str(cause) or type(cause).__name__}. {forms} The "
            "hub needs a network."
        ) from error
    if isinstance(loaded, datasets.Dataset):  # a single one, from the disk
        return {"train": loaded}
    return {str(name): split for name, split in cast("Splits", loaded).items()}


def _load(data: str, kinds: Mapping[str, str], forms: str) -> object:
    path = Path(data).expanduser()
    if not path.exists():
        looks_local = data.startswith((".", "~", "/")) or data.count("/") > 1 or "\\" in data
        if looks_local or data.endswith(tuple(kinds)):
            beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
            close = did_you_mean(path.name, beside)
            raise InputError(f"--data {data} does not exist. {close}{forms}")
        name, _, configuration = data.partition(":")
        return datasets.load_dataset(name, name=configuration or None)
    if _is_saved(path):
        return datasets.load_from_disk(str(path))
    found = [file for file in (sorted(path.rglob("*")) or [path]) if file.is_file()]
    files = [file for file in found if file.suffix.lower() in kinds]
    builders = {kinds[file.suffix.lower()] for file in files}
    if len(builders) != 1:
        suffixes = ", ".join(sorted({file.suffix or file.name for file in found})) or "no files"
        raise InputError(f"--data {data} holds {suffixes}; files of one kind are expected. {forms}")
    by_split = _by_split(path, files) if path.is_dir() else {"train": files}
    return {split: _read(part, split, *builders) for split, part in by_split.items()}


def _is_saved(path: Path) -> bool:
    return any((path / name).is_file() for name in ("dataset_dict.json", "state.json"))


def _by_split(root: Path, files: Sequence[Path]) -> dict[str, list[Path]]:
    """Files by the split that they are named after, they or else their folders.

    Files that are named after none are to train on, unless others are: then they are left out.
    """
    by_split: dict[str, list[Path]] = {}
    for file in files:
        names = (file.stem, *reversed(file.relative_to(root).parts[:-1]))
        split = next((found for name in names if (found := split_named(name))), "")
        by_split.setdefault(split, []).append(file)
    unnamed = by_split.pop("", [])
    if unnamed and "train" in by_split:
        names = ", ".join(str(file.relative_to(root)) for file in unnamed)
        logger.warning("%s: left out what is named after no split: %s.", root, names)
    elif unnamed:
        by_split["train"] = unnamed
    return by_split


def _read(files: Sequence[Path], split: str, builder: str) -> datasets.Dataset:
    if builder == "table":
        return datasets.concatenate_datasets([read_table(file) for file in files])
    loaded: Any = datasets.load_dataset(builder, data_files={split: [str(file) for file in files]})
    return loaded[split]
