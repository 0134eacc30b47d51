"""Whether trusted rows count classes as the training data do, where both name them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, cast

from torch.utils.data import Subset

from data_agent.errors import InputError


def check_same_classes(dataset: Any, trusted: Any) -> None:
    """Refuse trusted data whose numbers of classes mean other classes than in the training data.

    Looks at what both have of `features` (of tables of `datasets`, also in lists and structs) and
    of `class_to_idx` and `classes` (of torchvision), unless a `target_transform` changes labels.

    Raises:
        InputError: a class of the trusted data has another number there, or is not there.
    """
    known = dict(_numbers(dataset))
    for column, numbers in _numbers(trusted):
        if (ours := known.get(column)) is None:
            continue
        for name, number in numbers.items():
            if ours.get(name) != number:
                there = f"as {ours[name]}" if name in ours else "have no such class"
                where = f"in the column {column!r} " if column else ""
                are_known = numbers.keys() <= ours.keys()
                raise InputError(
                    f"{where}the trusted data count the class {name!r} as {number}, the training "
                    f"data {there}: labels would be permuted. {_remedy(column, dataset, are_known)}"
                )


def _numbers(data: Any) -> Iterator[tuple[str, Mapping[str, int]]]:
    """By column the numbers of its classes, by name; a column without a name is that of labels."""
    while isinstance(data, Subset):
        data = cast("Any", data).dataset
    features = getattr(data, "features", None)
    if isinstance(features, Mapping):
        yield from _of_features(cast("Mapping[str, Any]", features))
    if getattr(data, "target_transform", None) is not None:
        return
    numbers, names = getattr(data, "class_to_idx", None), getattr(data, "classes", None)
    if isinstance(numbers, Mapping):
        yield "", cast("Mapping[str, int]", numbers)
    elif isinstance(names, list | tuple) and all(isinstance(n, str) for n in cast("Any", names)):
        yield "", {name: i for i, name in enumerate(cast("list[str]", names))}


def _of_features(kind: Any, column: str = "") -> Iterator[tuple[str, Mapping[str, int]]]:
    """Of a column's type, and of those within it; "[]" behind a name stands for a list."""
    names, inner = getattr(kind, "names", None), getattr(kind, "feature", None)
    if isinstance(kind, Mapping):
        for name, part in cast("Mapping[str, Any]", kind).items():
            yield from _of_features(part, f"{column}.{name}" if column else name)
    elif isinstance(kind, list):  # as older versions write lists
        yield from _of_features(cast("list[Any]", kind)[0], f"{column}[]")
    elif inner is not None:
        yield from _of_features(inner, f"{column}[]")
    elif isinstance(names, list):
        yield column, {name: number for number, name in enumerate(cast("list[str]", names))}


def _remedy(column: str, dataset: Any, are_known: bool) -> str:
    if not are_known:
        by_name = "Rename classes that are the same, and leave out rows of others."
    elif not column:
        by_name = (
            "Count them alike; of torchvision's folders: trusted.target_transform = "
            "[train.class_to_idx[name] for name in trusted.classes].__getitem__."
        )
    elif column in dataset.features:
        by_name = (
            "Where names mean the same: trusted.align_labels_with_mapping({name: i for i, name in "
            f"enumerate(train.features[{column!r}].names)}}, {column!r})."
        )
    elif (name := column.removesuffix("[]")) in dataset.features:
        by_name = (
            f"Where names mean the same: old, new = (data.features[{name!r}].feature for data in "
            f"(trusted, train)); trusted.map(lambda row: {{{name!r}: new.str2int(old.int2str("
            f"row[{name!r}]))}}, features=train.features)."
        )
    else:
        by_name = "Where names mean the same, give it the training data's numbers with map()."
    if not column:
        return by_name
    outer = re.split(r"[.[]", column)[0]
    return (
        f"{by_name} Where numbers mean the same: trusted.cast_column({outer!r}, "
        f"train.features[{outer!r}])."
    )
