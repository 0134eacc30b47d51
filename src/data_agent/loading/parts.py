"""What samples and the batch made of them hold: numbers and texts, part by part."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cached_property, lru_cache, reduce
from operator import getitem
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

_NUM_LOOKS = 32  # numbers that are looked at of each part of a sample, about, spread over it
_MOST_ELEMENTS = 16  # of a sample that are parts of their own
_MOST_LEVELS = 3  # of mappings and sequences inside of each other


class _Look(NamedTuple):
    """What is seen of one part of a sample: its shape, and some of its numbers."""

    shape: tuple[int, ...]
    numbers: Tensor


class Part:
    """One part of `S` samples: some of its numbers, and where they are among all of them.

    Args:
        name: where it is in a sample.
        shapes: its shapes in the samples; one where all have the same.
        numbers: float64 `[S, W]`, zeros behind those that were looked at.
    """

    def __init__(self, name: object, shapes: list[tuple[int, ...]], numbers: Tensor) -> None:
        self.name = name
        self.shapes = set(shapes)
        self.numbers = numbers
        at = pad_sequence([_places(math.prod(shape)) for shape in shapes], True, -1)
        self.at = at.expand(numbers.shape)
        self.sizes = torch.tensor([[math.prod(shape)] for shape in shapes])

    @cached_property
    def _counts(self) -> Counter[tuple[float, ...]]:
        return Counter(map(tuple, self.numbers.tolist()))

    @property
    def num_distinct(self) -> int:
        """Samples that differ in this part."""
        return len(self._counts)

    def num_bits(self, wrong: Tensor | None = None) -> float:
        """How improbable it is that other things than this part look like it, in another order.

        Args:
            wrong: bool `[B, W]`, numbers of rows that are not those of their sample, which each had
                to become another sample's; None: that the values are drawn from among them.
        """
        size = len(self.numbers)
        if wrong is None:
            counts = self._counts.values()
            log_ways = math.lgamma(size + 1) - sum(math.lgamma(n + 1) for n in counts)
            return sum(n * math.log2(size / n) for n in counts) - log_ways / math.log(2)
        if 2 * self.num_distinct <= size:
            return 0.0  # few kinds of rows
        bits = torch.tensor([math.log2(len(column.unique())) for column in self.numbers.T])
        return float(((wrong.float() @ bits)[wrong.any(1)] - math.log2(size)).sum())


def parts_of(samples: list[Any]) -> list[Part]:
    """What all samples have in common: numbers, texts, and rows of numbers."""
    samples = [_opened(sample) for sample in samples]
    found = (_part_of(path, samples) for path in _paths(samples[0]))
    return [part for part in found if part is not None]


def _part_of(path: tuple[Any, ...], samples: list[Any]) -> Part | None:
    try:
        values = [reduce(getitem, path, sample) for sample in samples]
    except (KeyError, IndexError, TypeError):
        return None
    if all(type(value) is int or type(value) is float for value in values):  # most parts, at once
        return Part(path, [()], torch.tensor(values, dtype=torch.float64).unsqueeze(1))
    looks: list[_Look] = []
    for value in values:
        if (look := _look(value)) is None:
            return None
        looks.append(look)
    shapes = [look.shape for look in looks]
    if len(set(shapes)) == 1:
        return Part(path, shapes[:1], torch.stack([look.numbers for look in looks]).double())
    numbers = pad_sequence([look.numbers.double() for look in looks], batch_first=True)
    return Part(path, shapes, numbers)


def _opened(sample: Any) -> Any:
    """The attributes of an object of the user's; all else as it is."""
    if isinstance(sample, Tensor | np.ndarray | list | tuple | dict | Mapping):
        return cast("Any", sample)
    return getattr(sample, "__dict__", sample)


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The ways to all parts of a sample: itself, fields, elements, and those of these."""
    inner: Mapping[Any, Any] = {}
    if isinstance(value, Mapping):
        inner = cast("Mapping[Any, Any]", value)
    elif isinstance(value, list | tuple) and len(cast("list[Any]", value)) <= _MOST_ELEMENTS:
        elements = dict(enumerate(cast("list[Any]", value)))
        inner = {} if path and isinstance(elements.get(0), bool | int | float) else elements
    yield path
    if len(path) < _MOST_LEVELS:
        for key, element in inner.items():
            yield from _paths(element, (*path, key))


def _look(value: Any) -> _Look | None:
    """Some of its numbers; a text is told from others by a number too."""
    if isinstance(value, str | bytes):
        value = float(hash(value) >> 12)
    try:
        shape, flat = _flat(value)
        seen = flat[:: _step(len(flat))]
        if isinstance(seen, np.ndarray):
            seen = seen.astype(np.float64)
        if not isinstance(seen, Tensor):
            seen = torch.as_tensor(seen, dtype=torch.float64)
        return _Look(shape, seen.cpu()) if len(seen) else None
    except (TypeError, ValueError, OverflowError, RuntimeError):  # no numbers, or of no one shape
        return None


def _step(size: int) -> int:
    return size // _NUM_LOOKS | 1  # odd, so as not to look down one column of an image


@lru_cache
def _places(size: int) -> Tensor:
    return torch.arange(0, size, _step(size))


def _flat(value: Any) -> tuple[tuple[int, ...], Any]:
    """The shape of numbers, and all of them in a row."""
    if isinstance(value, Tensor):
        return tuple(value.shape), value.detach().reshape(-1)
    if isinstance(value, list | tuple):
        first = cast("list[Any]", value)[0] if value else None
        if isinstance(first, bool | int | float):
            return (len(cast("list[Any]", value)),), value
        value = np.asarray(value) if isinstance(first, list | tuple) else None
    if not isinstance(value, bool | int | float | np.generic | np.ndarray):
        raise TypeError
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise TypeError
    return array.shape, array.reshape(-1)


def values_of(batch: Any) -> Iterator[Any]:
    """All tensors, arrays and lists in a batch."""
    if isinstance(batch, Mapping):
        for value in cast("Mapping[Any, Any]", batch).values():
            yield from values_of(value)
    elif isinstance(batch, Tensor | np.ndarray):
        yield batch
    elif isinstance(batch, list | tuple):
        yield batch
        for value in cast("list[Any]", batch):
            yield from values_of(value)


def rows_of(value: Any, size: int) -> Tensor | None:
    """A tensor, an array or a list with one row for each of `size` samples, as a tensor."""
    if isinstance(value, list | tuple):
        each = [_look(element) for element in value] if len(value) == size else []
        numbers = [look.numbers[0] for look in each if look is not None and look.shape == ()]
        value = torch.tensor(numbers if len(each) == len(numbers) else [], dtype=torch.float64)
    elif isinstance(value, np.ndarray):
        array = cast("np.ndarray[Any, Any]", value)
        if array.dtype.kind not in "biuf":
            return None
        value = torch.from_numpy(array if array.flags.writeable else array.copy())
    rows = cast("Tensor", value).detach()
    if rows.layout != torch.strided or rows.is_nested or rows.is_complex() or not rows.ndim:
        return None
    return rows.cpu() if len(rows) == size and rows.numel() else None
