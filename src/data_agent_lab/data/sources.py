"""Finding a data set's splits on the Hugging Face hub, or in files of rows.

Tables (.csv, .tsv) are read as written: no row is joined, no word taken for a gap.
"""

from __future__ import annotations

import codecs
import csv
import io
import logging
import re
import sys
from collections.abc import Callable, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import datasets

from data_agent.errors import InputError
from data_agent_lab.data.labels import did_you_mean

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
SPLITS = {
    **{"train": "train", "training": "train", "test": "test", "testing": "test"},
    **{name: "validation" for name in ("validation", "valid", "val", "dev", "eval", "evaluation")},
}
_WHOLE = re.compile(r"-?(0|[1-9]\d{0,17})")
_DECIMAL = re.compile(r"-?(0|[1-9]\d{0,14})(\.\d*([eE][+-]?\d+)?)?")
_TEXTS = {  # usual names of texts, which stay texts where all of them are numbers
    *("text", "content", "document", "sentence", "sentence1", "sentence2", "text1", "text2"),
    *("prompt", "completion", "response", "instruction", "input", "context", "output"),
    *("question", "question1", "question2", "answer", "premise", "hypothesis", "review"),
}
Splits = dict[str, datasets.Dataset]
S = TypeVar("S", bound=Sized)  # rows of any form


def open_rows(
    data: str,
    kinds: Mapping[str, str] = _ROW_FILES,
    forms: str = _ROW_FORMS,
    *,
    flag: str = "--data",
) -> Splits:
    """Load the splits of a hub name, a file of rows, or a folder of such files with split names.

    Each split has its own columns. A folder may be what `save_to_disk` wrote. Messages name the
    `flag` that named the data.

    Raises:
        InputError: no such path, no usable files in it, several kinds of files, or a name that the
            hub does not give.
    """
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()  # a log would have a line for each of their steps
    try:
        loaded = _load(data, kinds, forms, flag)
    except InputError:
        raise
    except Exception as error:  # datasets lets errors of many libraries through
        cause = error.__cause__ or error
        raise InputError(
            f"{flag} {data} could not be loaded: {str(cause) or type(cause).__name__}. {forms} The "
            "hub needs a network."
        ) from error
    if isinstance(loaded, datasets.Dataset):  # a single one, from the disk
        return {"train": loaded}
    return {str(name): split for name, split in cast("Splits", loaded).items()}


def choose_splits(splits: Mapping[str, S], is_usable: Callable[[S], bool]) -> tuple[S, str | None]:
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
    candidates = (name for name in _EVAL_SPLITS if name in splits and is_usable(splits[name]))
    chosen = next(candidates, None)
    for name in (name for name in splits if name not in ("train", chosen)):
        logger.info(
            "left out: split %r (%d rows). Evaluation takes the first of %s that can be used.",
            *(name, len(splits[name]), ", ".join(_EVAL_SPLITS)),
        )
    return train, chosen


def only_split(splits: Mapping[str, S], flag: str) -> S:
    """The training split of data without an evaluation, or the only one there is.

    Raises:
        InputError: there are others only, or no rows in it.
    """
    rows = splits.get("train", next(iter(splits.values()))) if splits else None
    if rows is None or ("train" not in splits and len(splits) > 1):
        raise InputError(f"{flag} has the splits {', '.join(splits)}; name the one meant train.")
    if not len(rows):
        raise InputError(f"{flag} has no rows; expected at least one.")
    return rows


def _load(data: str, kinds: Mapping[str, str], forms: str, flag: str) -> object:
    path = Path(data).expanduser()
    if not path.exists():
        looks_local = data.startswith((".", "~", "/")) or data.count("/") > 1 or "\\" in data
        if looks_local or data.endswith(tuple(kinds)):
            beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
            close = did_you_mean(path.name, beside)
            raise InputError(f"{flag} {data} does not exist. {close}{forms}")
        name, _, configuration = data.partition(":")
        return datasets.load_dataset(name, name=configuration or None)
    if is_saved(path):
        return datasets.load_from_disk(str(path))
    found = [file for file in (sorted(path.rglob("*")) or [path]) if file.is_file()]
    files = [file for file in found if file.suffix.lower() in kinds]
    builders = {kinds[file.suffix.lower()] for file in files}
    if len(builders) != 1:
        suffixes = ", ".join(sorted({file.suffix or file.name for file in found})) or "no files"
        raise InputError(f"{flag} {data} holds {suffixes}; files of one kind are expected. {forms}")
    by_split = _by_split(path, files) if path.is_dir() else {"train": files}
    return {split: _read(part, split, *builders) for split, part in by_split.items()}


def is_saved(path: Path) -> bool:
    """Whether `save_to_disk` wrote this folder."""
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


def split_named(name: str) -> str | None:
    """The split (train, validation, test) that a word of a file's or folder's name means, if any.

    "train-00000-of-00002" and "my_test" are names of splits; "dev" means validation.
    """
    words = re.split(r"[^a-z0-9]+", name.lower())
    return next((SPLITS[word] for word in words if word in SPLITS), None)


def read_table(file: Path) -> datasets.Dataset:
    """The rows of a table, whose first line names the columns; commas (.csv) or tabs part cells.

    Cells may stand in double quotes, with line breaks and separators in them, and a quotation mark
    doubled. If the file cannot be read so, a line is a row and quotation marks are part of the
    texts; also where a table with tabs, whose programs often know no quotes, has the right number
    of cells in every line. Words such as "null" and "NA" are texts; columns of numbers become
    numbers, unless they are named as texts are, and empty cells of such columns are missing. The
    text is UTF-8, or UTF-16 with a byte order mark.

    Raises:
        InputError: a line has more or fewer cells than the first, or the cells are parted by
            something else; the message names it.
    """
    content = file.read_bytes()
    is_wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if is_wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise InputError(
            f"{file}, line {line} is not UTF-8 ({error.reason}). Save the file as UTF-8."
        ) from error
    names, *rows = _rows(text, "," if file.suffix.lower() == ".csv" else "\t", file)
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"{file} has several columns {twice[0]!r}. Rename or remove one.")
    columns = {name: [row[i] for row in rows] for i, name in enumerate(names)}
    return datasets.Dataset.from_dict(
        {name: cells if name in _TEXTS else _typed(cells) for name, cells in columns.items()}
    )


def _rows(text: str, separator: str, file: Path) -> list[list[str]]:
    """The rows by their quotation marks, or else the lines; never an empty list."""
    rows, problem = _parsed(text, separator, csv.QUOTE_MINIMAL)
    lines, problem_of_lines = _parsed(text, separator, csv.QUOTE_NONE)
    if not lines:
        raise InputError(f"{file} is empty; expected a line with names of columns, and rows.")
    (name, *others), is_joined = lines[0], len(rows) < len(lines)
    if not others and (found := [mark for mark in ";\t|," if mark in name]):
        raise InputError(
            f"{file}: by the first line, {name[:80]!r}, cells are parted by {found[0]!r}. Save it "
            "with commas (.csv) or tabs (.tsv, .tab), or rename the column."
        )
    if not problem_of_lines and (problem or (is_joined and others and separator == "\t")):
        logger.info("%s: a line is a row; quotation marks are part of the texts.", file)
        return lines
    if problem:
        raise InputError(
            f"{file}, {problem}. Every line has as many cells as the first; cells with a separator "
            'or a line break stand in double quotes, and a quotation mark in them is written "".'
        )
    if is_joined:
        counts = len(lines) - 1, len(rows) - 1
        logger.info("%s: its %d lines are %d rows, by the quotation marks in it.", file, *counts)
    return rows


def _parsed(text: str, separator: str, quoting: Literal[0, 3]) -> tuple[list[list[str]], str]:
    """Rows that are not empty; and what is wrong in which line, if anything."""
    limit = csv.field_size_limit(sys.maxsize)  # cells may be documents
    lines = io.StringIO(text, newline="")
    reader = csv.reader(lines, delimiter=separator, quoting=quoting, strict=True)
    rows: list[list[str]] = []
    try:
        for cells in filter(None, reader):
            rows.append(cells)
            if len(cells) != len(rows[0]):
                return rows, f"line {reader.line_num} has {len(cells)} cells, not {len(rows[0])}"
    except csv.Error as error:
        return rows, f"line {reader.line_num} cannot be read ({error})"
    finally:
        csv.field_size_limit(limit)
    return rows, ""


def _typed(cells: Sequence[str]) -> Sequence[Any]:
    """Numbers, if all cells that are not empty are numbers; else the texts as they are."""
    full = [cell for cell in cells if cell]
    for pattern, convert in ((_WHOLE, int), (_DECIMAL, float)):
        if full and all(pattern.fullmatch(cell) for cell in full):
            return [convert(cell) if cell else None for cell in cells]
    return cells
