"""Texts that belong to classes, in whichever columns they come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import datasets
import torch
from torch import Tensor

from data_agent.errors import InputError
from data_agent_lab.recipes import TextRecipe

_TEXT_NAMES = ("text", "sentence", "content", "review", "comment_text", "tweet")
_PAIR_NAMES = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("text1", "text2"),
)
_LABEL_NAMES = ("label", "labels", "target", "class", "category", "sentiment")


@dataclass(frozen=True, slots=True, eq=False)
class LabelledTexts:
    """Texts and what they are.

    Args:
        texts: one or two a row, none of them empty.
        labels: the class of each row, by name.
        class_names: all classes, in the order of their numbers.
        num_empty: rows that were left out because they have no text.
    """

    texts: list[tuple[str, ...]]
    labels: list[str]
    class_names: tuple[str, ...]
    num_empty: int

    def numbered(self, class_names: Sequence[str]) -> Tensor:
        """Labels as numbers of these classes, int64 `[N]`.

        Raises:
            InputError: a label is none of them.
        """
        numbers = {name: number for number, name in enumerate(class_names)}
        strange = [label for label in self.labels if label not in numbers]
        if strange:
            raise InputError(
                f"the evaluation rows hold the label {strange[0]!r} ({len(strange)} such rows), "
                f"which is no class of the training data: {', '.join(class_names[:20])}"
                + (", ..." if len(class_names) > 20 else ".")
            )
        return torch.tensor([numbers[label] for label in self.labels])


def read_labelled(rows: datasets.Dataset, recipe: TextRecipe) -> LabelledTexts:
    """Find texts and labels: class labels, whole numbers or words.

    Args:
        rows: of one split.
        recipe: names the columns, where they have other names.

    Raises:
        InputError: no such columns, rows without a label, or labels that are no classes.
    """
    features = cast("Mapping[str, Any]", rows.features)
    label_name = find_column(features, recipe.label_column, _LABEL_NAMES, "label")
    text_names = _text_columns(features, recipe.text_column)
    kind, values = features[label_name], list(rows[label_name])
    missing = sum(_is_missing(value) for value in values)
    if missing:
        raise InputError(
            f"{missing} of {len(values)} rows have no label (or -1, which means none) in the "
            f"column {label_name!r}. Remove them, or name another one with --label-column."
        )
    strange = next((value for value in values if not _is_class(value)), None)
    if strange is not None:
        raise InputError(
            f"the column {label_name!r} holds {strange!r}; expected a class, a whole number or a "
            "word. Regression and several classes a row are not supported."
        )
    if isinstance(kind, datasets.ClassLabel):
        names = tuple(str(name) for name in kind.names)
        labels = [names[value] for value in values]
    else:
        names = tuple(str(value) for value in sorted(set(values)))
        labels = [str(value) for value in values]
    texts = list(zip(*(rows[name] for name in text_names), strict=True))
    kept = [i for i, row in enumerate(texts) if all(isinstance(t, str) and t.strip() for t in row)]
    return LabelledTexts(
        [texts[i] for i in kept], [labels[i] for i in kept], names, len(texts) - len(kept)
    )


def has_labels(rows: datasets.Dataset, recipe: TextRecipe) -> bool:
    """Whether every row has a label; benchmarks publish splits without."""
    try:
        name = find_column(cast("Any", rows.features), recipe.label_column, _LABEL_NAMES, "label")
    except InputError:
        return False
    return not any(_is_missing(value) for value in rows[name])


def _is_missing(value: object) -> bool:
    return value is None or value == -1


def _is_class(value: object) -> bool:
    return isinstance(value, int | str) or (isinstance(value, float) and value.is_integer())


def _text_columns(features: Mapping[str, Any], wanted: str | None) -> tuple[str, ...]:
    """One column of texts, or two: those that `wanted` names, separated by a comma, or usual."""
    if wanted is not None and wanted not in features and wanted.count(",") == 1:
        names = (name.strip() for name in wanted.split(","))
        return tuple(find_column(features, name, (), "text") for name in names)
    pairs = [names for names in _PAIR_NAMES if set(names) <= set(features)]
    if wanted is None and pairs:
        return pairs[0]
    return (find_column(features, wanted, _TEXT_NAMES, "text"),)


def find_column(
    features: Mapping[str, Any], wanted: str | None, usual: Sequence[str], what: str
) -> str:
    """The wanted column, or the first with a usual name, or the only one that fits.

    Args:
        features: the columns, and of what type they are.
        wanted: its name; None leaves it to the names and types.
        usual: names, the most usual first.
        what: text or label.

    Raises:
        InputError: no such column, or several.
    """
    if wanted is not None:
        fitting = [name for name in features if name == wanted]
    else:
        fitting = [name for name in usual if name in features]
        if not fitting:
            fitting = [name for name, kind in features.items() if _fits(kind, what)]
    if not fitting or (len(fitting) > 1 and fitting[0] not in usual):
        problem = f"there is no column {wanted!r}" if wanted else f"which column holds the {what}?"
        raise InputError(
            f"{problem} The data has {', '.join(features)}. Name one with --{what}-column"
            + (" (of pairs of texts both: --text-column ONE,OTHER)." if what == "text" else ".")
        )
    return fitting[0]


def _fits(kind: Any, what: str) -> bool:
    if what == "label":
        return isinstance(kind, datasets.ClassLabel)
    return isinstance(kind, datasets.Value) and kind.dtype in ("string", "large_string")
