"""Columns of a data set, and the classes that its rows belong to."""

from __future__ import annotations

import difflib
import logging
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import datasets
import torch
from torch import Tensor

from data_agent.errors import InputError

logger = logging.getLogger(__name__)

LABEL_NAMES = ("label", "labels", "fine_label", "target", "class", "category", "sentiment")
_NUMBER = re.compile(r"[+-]?\d+")


def find_column(
    rows: datasets.Dataset,
    wanted: str | None,
    *,
    usual: Sequence[str],
    fits: Callable[[Any], bool],
    what: str,
) -> str:
    """The wanted column, or the first with a usual name, or the only one whose type fits.

    Raises:
        InputError: no such column, or several; the message lists those there are.
    """
    fitting = [name for name, kind in _types(rows).items() if fits(kind)]
    found = [name for name in (usual if wanted is None else [wanted]) if name in fitting]
    if wanted is None and len(fitting) == 1:
        found = fitting
    return _first(found, rows, wanted, what)


def _find_label_column(rows: datasets.Dataset, wanted: str | None) -> str:
    """The wanted column, or the only one of type ClassLabel, or the first with a usual name."""
    types = _types(rows)
    declared = [name for name, kind in types.items() if isinstance(kind, datasets.ClassLabel)]
    if wanted is not None:
        kind = types.get(wanted)
        is_value = isinstance(kind, datasets.Value) and kind.dtype != "binary"
        found = [wanted] if wanted in declared or is_value else []
    else:
        found = declared if len(declared) == 1 else [name for name in LABEL_NAMES if name in types]
    return _first(found, rows, wanted, "label")


def _types(rows: datasets.Dataset) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", rows.features)


def _first(found: Sequence[str], rows: datasets.Dataset, wanted: str | None, what: str) -> str:
    if found:
        return found[0]
    types = _types(rows)
    problem, close = f"which column holds the {what}?", ""
    if wanted in types:
        problem = f"the column {wanted!r} does not fit"
    elif wanted is not None:
        problem, close = f"there is no column {wanted!r}", did_you_mean(wanted, list(types))
    columns = ", ".join(
        f"{name} ({kind.dtype if isinstance(kind, datasets.Value) else type(kind).__name__})"
        for name, kind in types.items()
    )
    hint = " (of pairs of texts both: --text-column ONE,OTHER)" if what == "text" else ""
    raise InputError(
        f"{problem}: the data has {columns}. {close}Name one with --{what}-column{hint}."
    )


def did_you_mean(name: str, names: Sequence[str]) -> str:
    """A question with the nearest of the names, or nothing."""
    close = difflib.get_close_matches(name, names, n=1)
    return f"Did you mean {close[0]}? " if close else ""


class Labels(NamedTuple):
    """What the rows of a split are."""

    numbers: Tensor  # int64 [N], the class of each row
    class_names: tuple[str, ...]  # all classes, in the order of their numbers
    are_declared: bool  # whether the data set names its classes, so that numbers may stand for them


def has_labels(rows: datasets.Dataset, wanted: str | None) -> bool:
    """Whether every row has a label; benchmarks publish splits without."""
    try:
        column = _find_label_column(rows, wanted)
    except InputError:
        return False
    return None not in _words(rows, column, f"the column {column!r} of a split", ())[0]


def read_labels(
    rows: datasets.Dataset, wanted: str | None, *, source: str, class_names: Sequence[str] = ()
) -> Labels:
    """The classes of all rows: class labels, whole numbers (of any size and sign) or words.

    Classes are those that occur, in the order of numbers or of the alphabet, unless `class_names`
    are given, those of the training data. Spaces around words do not count, nor does it matter in
    which form Unicode writes their accents. The number -1 means no label, as in published
    benchmarks, unless other labels say that it is a class: there is no 0, or another negative
    number. `source` says in messages where the rows come from.

    Raises:
        InputError: no such column, or a row has no label, or one that is no class.
    """
    column = _find_label_column(rows, wanted)
    source = f"the column {column!r} of {source}"
    words, found = _words(rows, column, source, class_names)
    if num_missing := words.count(None):
        raise InputError(
            f"{num_missing} of {len(words)} rows have no label (an empty cell, or -1, which means "
            f"none) in {source}. Remove them, name another column with --label-column, or write "
            "the classes as words."
        )
    names = tuple(class_names) or found
    numbers: dict[str | None, int] = {name: number for number, name in enumerate(names)}
    if strange := [word for word in words if word not in numbers]:
        raise InputError(
            f"{source} holds the label {strange[0]!r} ({len(strange)} such rows), which is no "
            f"class of the training data: {first_few(names, 20)}."
        )
    if absent := sorted(set(names).difference(words)):
        number = f"{len(absent)} of the {len(names)} classes"
        logger.info("%s has no row of %s: %s.", source, number, first_few(absent, 5))
    index = torch.tensor([numbers[word] for word in words], dtype=torch.int64)
    return Labels(index, names, isinstance(_types(rows)[column], datasets.ClassLabel))


def first_few(names: Sequence[str], count: int) -> str:
    """The first of the names, and whether there are more."""
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")


def _words(
    rows: datasets.Dataset, column: str, source: str, training: Sequence[str]
) -> tuple[list[str | None], tuple[str, ...]]:
    """The class of each row by name, None where it has none; and all classes."""
    kind, cells = _types(rows)[column], list[Any](rows[column][:])
    if isinstance(kind, datasets.ClassLabel):
        names = [_spelt(name) for name in kind.names]
        if strange := [cell for cell in cells if cell is not None and cell >= len(names)]:
            raise InputError(f"{source} holds the class {strange[0]}, of {len(names)} classes.")
        words = [None if cell is None or cell < 0 else names[cell] for cell in cells]
        return words, tuple(dict.fromkeys(names))
    words = [_word(cell, source) for cell in cells]
    found = {word for word in words if word is not None}
    others = found - {"-1"}
    is_class = "-1" in training or any(isinstance(cell, str) for cell in cells)
    is_usual = not others or ("0" in others and not any(word[0] == "-" for word in others))
    if is_usual and not is_class:
        words, found = [None if word == "-1" else word for word in words], others
    are_numbers = all(_NUMBER.fullmatch(word) for word in found)
    return words, tuple(sorted(sorted(found), key=int if are_numbers else None))


def _word(cell: object, source: str) -> str | None:
    if isinstance(cell, float):
        if cell != cell:  # not a number: empty in tables of numbers
            return None
        cell = int(cell) if cell.is_integer() else cell
    if cell is not None and not isinstance(cell, int | str):
        raise InputError(
            f"{source} holds {cell!r}; expected a class, a whole number or a word. Regression and "
            "several classes a row are not supported."
        )
    return None if cell is None else _spelt(cell) or None


def _spelt(word: object) -> str:
    return unicodedata.normalize("NFC", str(word)).strip()
