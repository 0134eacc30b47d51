"""Whether trusted samples are made of the same things as those of the training data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

import numpy as np
from torch import Tensor

from data_agent.errors import InputError
from data_agent.loading.looking import look_at

_NUM_LOOKED_AT = 8  # training samples, where widths differ
_CONTAINERS = Mapping, tuple, list


def check_same_layout(dataset: Any, trusted: Any) -> None:
    """Refuse trusted samples that would fail or change the dtype of a batch with others.

    Looks at the first sample of each: at its keys or elements, at whether each of these is a
    tensor, an array, a list, a text or a number, and at dtype and number of dimensions of tensors
    and arrays. Sizes may differ, since collators pad texts and resize images; but not those of
    vectors, where all training samples that are looked at have one.

    Raises:
        InputError: they differ; the message says in what.
    """
    ours, theirs = look_at(dataset), look_at(trusted)
    if isinstance(ours, _CONTAINERS) or isinstance(theirs, _CONTAINERS):
        own, other = _made_of(ours), _made_of(theirs)
        if own != other:
            raise InputError(
                f"a sample of the trusted data is {other}, one of the training data {own}. Give "
                "both the same layout: the same keys or elements, in the same order."
            )
    others = dict(_parts(theirs))
    for place, part in _parts(ours):
        other = others.get(place)
        if _fit(part, other) and not _is_of_other_width(dataset, place, part, other):
            continue
        raise InputError(
            f"{place}a sample of the trusted data is {_in_words(other)}, of the training data "
            f"{_in_words(part)}: a batch of both would fail or change its dtype. Make trusted "
            "samples as training samples are made, with the same transforms (of tables of datasets "
            "with the same format: with_format)."
        )


def _made_of(sample: object) -> str:
    if isinstance(sample, Mapping):
        names = sorted(map(str, cast("Mapping[Any, Any]", sample)))
        return f"a mapping of {', '.join(names)}"
    if isinstance(sample, tuple | list):
        return f"a {type(sample).__name__} of {len(cast('list[Any]', sample))}"
    return f"a {type(sample).__name__}"


def _parts(sample: object, place: str = "", *, is_inner: bool = False) -> Iterator[tuple[str, Any]]:
    """What a sample holds, and where, in words: values of mappings, elements of tuples."""
    if isinstance(sample, Mapping):
        for name, value in cast("Mapping[Any, Any]", sample).items():
            yield from _parts(value, f"{name!r} of {place}", is_inner=True)
    elif isinstance(sample, tuple) or (isinstance(sample, list) and not is_inner):
        for number, value in enumerate(cast("list[Any]", sample)):
            yield from _parts(value, f"element {number} of {place}", is_inner=True)
    else:
        yield place, sample


def _fit(ours: object, theirs: object) -> bool:
    """Whether values go into one batch; what is not known, or missing, is let through."""
    if ours is None or theirs is None:
        return True
    own, other = _kind(ours), _kind(theirs)
    if own != other:
        return (own, other) == ("a float", "an int")  # a target may happen to be whole
    if isinstance(ours, Tensor | np.ndarray) and isinstance(theirs, Tensor | np.ndarray):
        return ours.dtype == theirs.dtype and ours.ndim == theirs.ndim
    return True


def _kind(value: object) -> str:
    if isinstance(value, Tensor):
        return "a tensor"
    if isinstance(value, np.ndarray):
        return "an array"
    if isinstance(value, bool | int | np.integer | np.bool_):
        return "an int"
    if isinstance(value, float | np.floating):
        return "a float"
    if isinstance(value, str):
        return "a text"
    return "a list" if isinstance(value, list) else ""


def _in_words(value: Any) -> str:
    kind = _kind(value) or f"a {type(value).__name__}"
    if isinstance(value, Tensor | np.ndarray):
        dtype = str(value.dtype).removeprefix("torch.")
        return f"{kind} of {dtype} and shape {list(value.shape)}"
    return kind


def _is_of_other_width(dataset: Any, place: str, ours: Any, theirs: Any) -> bool:
    width = _width(ours)
    if width is None or _width(theirs) in (None, width):
        return False
    step = max(1, len(dataset) // _NUM_LOOKED_AT)
    others = (dict(_parts(look_at(dataset, i))) for i in range(0, len(dataset), step))
    return all(_width(parts.get(place)) == width for parts in others)


def _width(value: Any) -> int | None:
    """Of a row of features; token ids, which are padded, are whole numbers."""
    is_float = isinstance(value, Tensor) and value.is_floating_point()
    if is_float or (isinstance(value, np.ndarray) and value.dtype.kind == "f"):
        return len(value) if value.ndim == 1 else None
    return None
