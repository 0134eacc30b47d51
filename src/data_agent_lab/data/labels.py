"""Columns of a data set, and the classes that its rows belong to."""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

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
    """The wanted column, or the first with a usual name, or the only one that fits.

    Args:
        rows: the data set.
        wanted: its name; None leaves it to names and types.
        usual: names, the most usual first.
        fits: whether a column's type does.
        what: image, label or text.

    Raises:
        InputError: no such column, or several; the message lists those there are.
    """
    features = cast("Mapping[str, Any]", rows.features)
    fitting = [name for name, kind in features.items() if fits(kind)]
    named = [name for name in usual if name in fitting]
    if wanted in fitting:
        return wanted
    if wanted is None and (named or len(fitting) == 1):
        return named[0] if named else fitting[0]
    problem = f"which column holds the {what}?"
    if wanted is not None:
        problem = (
            f"the column {wanted!r} does not fit"
            if wanted in features
            else f"there is no column {wanted!r}"
        )
    found = ", ".join(f"{name} ({_described(kind)})" for name, kind in features.items())
    hint = " (of pairs of texts both: --text-column ONE,OTHER)" if what == "text" else ""
    close = did_you_mean(wanted, list(features)) if wanted not in features else ""
    raise InputError(
        f"{problem}: the data has {found}. {close}Name one with --{what}-column{hint}."
    )


def did_you_mean(name: str | None, names: Sequence[str]) -> str:
    """A question with the nearest of the names, or nothing."""
    close = difflib.get_close_matches(name or "", names, n=1)
    return f"Did you mean {close[0]}? " if close else ""


def _described(kind: Any) -> str:
    return kind.dtype if isinstance(kind, datasets.Value) else type(kind).__name__


def find_label_column(rows: datasets.Dataset, wanted: str | None) -> str:
    """The column with the classes: the only one of type ClassLabel, or one with a usual name.

    Raises:
        InputError: see `find_column`.
    """
    features = cast("Mapping[str, Any]", rows.features)
    declared = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    if wanted is None and len(declared) == 1:
        return declared[0]
    if wanted is not None or not any(name in LABEL_NAMES for name in features):
        fits = _may_be_label if wanted is not None else _is_declared
        return find_column(rows, wanted, usual=(), fits=fits, what="label")
    return find_column(rows, None, usual=LABEL_NAMES, fits=lambda _: True, what="label")


def _is_declared(kind: Any) -> bool:
    return isinstance(kind, datasets.ClassLabel)


def _may_be_label(kind: Any) -> bool:
    return isinstance(kind, datasets.ClassLabel | datasets.Value) and kind.dtype != "binary"


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """What the rows of a split are.

    Args:
        words: the class of each row by name; None where it has none.
        class_names: all classes, in the order of their numbers.
        source: where they come from, in words.
        are_declared: whether the data set names its classes, so that numbers may stand for them.
    """

    words: Sequence[str | None]
    class_names: tuple[str, ...]
    source: str
    are_declared: bool = False

    @property
    def num_missing(self) -> int:
        """Rows without a label."""
        return sum(word is None for word in self.words)

    def check_complete(self) -> None:
        """Refuse rows without a label."""
        if self.num_missing:
            raise InputError(
                f"{self.num_missing} of {len(self.words)} rows have no label (an empty cell, or "
                f"-1, which means none) in {self.source}. Remove them, name another column with "
                "--label-column, or write the classes as words."
            )

    def numbered(self, class_names: Sequence[str]) -> Tensor:
        """Labels as numbers of these classes, int64 `[N]`.

        Raises:
            InputError: a label is none of them.
        """
        numbers = {name: number for number, name in enumerate(class_names)}
        strange = [word for word in self.words if word not in numbers]
        if strange:
            names = ", ".join(class_names[:20]) + (", ..." if len(class_names) > 20 else "")
            raise InputError(
                f"{self.source} holds the label {strange[0]!r} ({len(strange)} such rows), which "
                f"is no class of the training data: {names}."
            )
        absent = sorted(set(class_names) - set(cast("Sequence[str]", self.words)))
        if absent:
            logger.info(
                "%s has no row of %d of the %d classes: %s.",
                self.source,
                len(absent),
                len(class_names),
                ", ".join(absent[:5]) + (", ..." if len(absent) > 5 else ""),
            )
        return torch.tensor([numbers[cast("str", word)] for word in self.words], dtype=torch.int64)


def read_labels(
    rows: datasets.Dataset, column: str, *, source: str, training: Sequence[str] = ()
) -> Labels:
    """The classes of all rows: class labels, whole numbers (of any size and sign) or words.

    Classes are those that occur, in the order of numbers or of the alphabet; spaces around words do
    not count. The number -1 means no label, as in published benchmarks, unless other labels say
    that it is a class: there is no 0, or another negative number.

    Args:
        rows: of one split.
        column: with their labels.
        source: the split in words, for messages.
        training: the classes of the training data, where this is another split.

    Raises:
        InputError: the column holds something else.
    """
    kind = cast("Mapping[str, Any]", rows.features)[column]
    table = cast("Any", rows.select_columns([column]).with_format("arrow"))[:]
    cells: list[Any] = table.column(column).to_pylist()
    source = f"the column {column!r} of {source}"
    if isinstance(kind, datasets.ClassLabel):
        names = tuple(str(name).strip() for name in kind.names)
        if strange := [cell for cell in cells if cell is not None and cell >= len(names)]:
            raise InputError(f"{source} holds the class {strange[0]}, of {len(names)} classes.")
        words = [None if cell is None or cell < 0 else names[cell] for cell in cells]
        return Labels(words, names, source, are_declared=True)
    words = [_word(cell, source) for cell in cells]
    found = {word for word in words if word is not None}
    are_words = any(isinstance(cell, str) for cell in cells)
    if "-1" in found and "-1" not in training and not are_words and _means_none(found - {"-1"}):
        words = [None if word == "-1" else word for word in words]
        found.remove("-1")
    are_numbers = all(_NUMBER.fullmatch(word) for word in found)
    return Labels(words, tuple(sorted(found, key=int if are_numbers else None)), source)


def _means_none(others: set[str]) -> bool:
    """Whether -1 is no class beside these labels."""
    return not others or ("0" in others and not any(word.startswith("-") for word in others))


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
    return None if cell is None else str(cell).strip() or None
