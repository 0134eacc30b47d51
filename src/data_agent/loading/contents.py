"""Which sample each row of a batch is, told by what both hold: labels, images, padded sequences.

Of each part of the samples (a field, an element, all numbers of a row) some numbers are looked at,
and searched for in the rows of every tensor of the batch, whatever its name and its dimensions.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, lru_cache
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

_CERTAIN = 24.0  # bits: a coincidence of 1 in 16 million
_NUM_LOOKS = 32  # numbers that are looked at of each part of a sample, about, spread over it
_MOST_ELEMENTS = 16  # of a sample that are parts of their own
_MOST_LEVELS = 3  # of mappings and sequences inside of each other

Unclear = Callable[[str], Exception]
"""Makes the error of a reason why it is not known which sample each row is."""


class Contents:
    """Compares the batches of one collate function with the samples that they were made of.

    A part of the samples confirms an order if some tensor of the batch holds it in that order, and
    speaks against it if tensors hold it in other orders only. Long rows that stand elsewhere are no
    coincidence, and the order is theirs. Single numbers may be one (labels that are turned, noisy,
    or of few classes), so they count over several batches, and only where no part of as many
    different values confirms the order.
    """

    def __init__(self) -> None:
        self._doubts: dict[object, float] = {}

    def order_of(
        self, batch: Any, parts: list[Part], order: list[int], *, is_read: bool, unclear: Unclear
    ) -> list[int]:
        """The places of the samples in the order of the batch's rows.

        Args:
            batch: what the collate function returned.
            parts: of the samples that it got.
            order: their places, as they are thought to stand in the batch.
            is_read: whether samples were read in this order; else it is a guess.
            unclear: makes the error that is raised where contents leave the order open.
        """
        rows = [row for value in _values(batch) if (row := _rows_of(value, len(order))) is not None]
        pairs = {part: [*_pairs(part, rows)] for part in parts}
        confirming = [
            part for part in parts if any(not pair.wrong(order).any() for pair in pairs[part])
        ]
        against = {
            part: [(pair, hits) for pair in pairs[part] if (hits := pair.hits()) is not None]
            for part in parts
            if part not in confirming
        }
        certain = [
            hits
            for part, found in against.items()
            for pair, hits in found
            if part.num_bits(pair.wrong(order)) >= _CERTAIN
        ]
        if certain:
            explained = [[pair.hits() for pair in pairs[part]] for part in confirming]
            return _order_by(torch.stack(certain).all(0), explained, unclear)
        if not is_read and not confirming:
            raise unclear("nothing in the batch tells their order")
        if against and self._speaks_against(against, confirming, is_read=is_read):
            raise unclear("their contents are in another order than samples were read in")
        return order

    def _speaks_against(
        self,
        against: dict[Part, list[tuple[_Pair, Tensor]]],
        confirming: list[Part],
        *,
        is_read: bool,
    ) -> bool:
        """Whether single numbers have stood in another order too often, or anything else does."""
        most = max((part.num_distinct for part in confirming), default=0)
        for part, found in against.items():
            if not any(_assigned(hits) for _, hits in found):
                self._doubts[part.name] = -math.inf  # the batch holds another thing than this part
            elif part.num_distinct > max(1, most):
                self._doubts[part.name] = self._doubts.get(part.name, 0.0) + part.num_bits()
        doubt = sum(max(0.0, self._doubts.get(part.name, 0.0)) for part in against)
        return doubt >= _CERTAIN or (doubt > 0 and not is_read and most < 2)


class Part:
    """One part of `S` samples: some of its numbers, and where they are among all of them.

    Args:
        name: where it is in a sample.
        looks: what was seen of it in each sample.
    """

    def __init__(self, name: object, looks: list[_Look]) -> None:
        self.name = name
        self.shapes = {look.shape for look in looks}
        self.numbers = pad_sequence([look.numbers for look in looks], batch_first=True)
        at = pad_sequence(
            [look.places for look in (looks if len(self.shapes) > 1 else looks[:1])],
            batch_first=True,
            padding_value=-1,
        )
        self.at = at.expand(self.numbers.shape)
        self.sizes = torch.tensor([[math.prod(look.shape)] for look in looks])

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


class _Pair(NamedTuple):
    """A part of the samples beside the rows of a tensor `[B, width]` that may hold it."""

    rows: Tensor
    numbers: Tensor
    """`[S, W]`: the part's, as they come out of being stored in such a tensor."""
    at: Tensor
    """int64 `[S, W]`: where in a row each of them would be."""
    counts: Tensor
    """Bool `[S, W]`: whether it is one, and inside of a row."""

    def wrong(self, order: list[int]) -> Tensor:
        """Bool `[B, W]`: the numbers in which row i is not sample `order[i]`."""
        found = self.rows.gather(1, self.at[order])
        return (found != self.numbers[order]) & self.counts[order]

    def hits(self) -> Tensor | None:
        """Bool `[B, S]`: which samples each row may be; None if one of them is none."""
        hits: list[Tensor] = []
        first = self.at.shape[1] // 2  # one number, which most samples fail by
        for row in self.rows:
            hit = (row[self.at[:, first]] == self.numbers[:, first]) | ~self.counts[:, first]
            few = hit.nonzero().squeeze(1)
            hit[few] = ((row[self.at[few]] == self.numbers[few]) | ~self.counts[few]).all(1)
            if not hit.any():
                return None
            hits.append(hit)
        return torch.stack(hits)


def _pairs(part: Part, all_rows: list[Tensor]) -> Iterator[_Pair]:
    """The part beside all tensors whose rows may be it: whole, padded or cut, at either end."""
    for rows in all_rows:
        flat = rows.reshape(len(rows), -1)
        width = flat.shape[1]
        is_whole = bool((part.sizes == width).all())
        may_be_cut = rows.ndim > 1 and all(
            shape and shape[1:] == rows.shape[2:] for shape in part.shapes
        )
        numbers = part.numbers.to(flat.dtype) if flat.is_floating_point() else part.numbers
        shifts: list[Any] = [0, width - part.sizes] if may_be_cut and not is_whole else [0]
        for shift in shifts if is_whole or may_be_cut else []:
            at = part.at + shift
            counts = (part.at >= 0) & (at >= 0) & (at < width) & ~part.numbers.isnan()
            if counts.any(1).all():
                yield _Pair(flat, numbers, at.clamp(0, width - 1), counts)


def _order_by(
    certain: Tensor, confirming: list[list[Tensor | None]], unclear: Unclear
) -> list[int]:
    """The order in which rows are the samples that they may be for certain, bool `[B, S]`.

    Args:
        certain: which these are.
        confirming: of each part that confirmed another order, which samples the rows may be.
        unclear: makes the error for rows that are no samples in one order.
    """
    for options in confirming:
        fitting = [
            both
            for hits in options
            if hits is not None and _assigned(both := certain & hits) is not None
        ]
        if not fitting and _assigned(certain) is not None:
            raise unclear("its parts are in different orders")
        certain = fitting[0] if fitting else certain
    order = _assigned(certain)
    if order is None:
        raise unclear("some of its rows are repeated, or mixed from several samples")
    return order


def _assigned(hits: Tensor) -> list[int] | None:
    """A sample of its own for each row, of those that it may be; rows with few come first."""
    order, free = [-1] * len(hits), torch.ones(hits.shape[1], dtype=torch.bool)
    for row in hits.sum(1).argsort(stable=True).tolist():
        left = (hits[row] & free).nonzero()
        if not len(left):
            return None
        order[row] = int(left[0])
        free[left[0]] = False
    return order


class _Look(NamedTuple):
    """What is seen of one part of a sample: its shape, and some numbers with their places."""

    shape: tuple[int, ...]
    places: Tensor
    numbers: Tensor


def parts_of(samples: list[Any]) -> list[Part]:
    """What all samples have in common: numbers, texts, and rows of numbers."""
    samples = [_opened(sample) for sample in samples]
    parts: list[Part] = []
    for path in _paths(samples[0]):
        looks: list[_Look] = []
        for sample in samples:
            look = _look_at(sample, path)
            if look is None:
                break
            looks.append(look)
        else:
            parts.append(Part(path, looks))
    return parts


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


def _look_at(sample: Any, path: tuple[Any, ...]) -> _Look | None:
    try:
        for key in path:
            sample = sample[key]
    except (KeyError, IndexError, TypeError):
        return None
    return _look(sample)


def _look(value: Any) -> _Look | None:
    """Some of its numbers; a text is told from others by a number too."""
    if isinstance(value, str | bytes):
        value = float(hash(value) >> 12)
    try:
        shape, flat = _flat(value)
        step = len(flat) // _NUM_LOOKS | 1  # odd, so as not to look down one column of an image
        seen = flat[::step].astype(np.float64) if isinstance(flat, np.ndarray) else flat[::step]
        numbers = torch.as_tensor(seen, dtype=torch.float64, device="cpu")
        return _Look(shape, _places(len(flat), step), numbers) if len(numbers) else None
    except (TypeError, ValueError, OverflowError, RuntimeError):  # no numbers, or of no one shape
        return None


@lru_cache
def _places(size: int, step: int) -> Tensor:
    return torch.arange(0, size, step)


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


def _values(batch: Any) -> Iterator[Any]:
    """All tensors, arrays and lists in a batch."""
    if isinstance(batch, Mapping):
        for value in cast("Mapping[Any, Any]", batch).values():
            yield from _values(value)
    elif isinstance(batch, Tensor | np.ndarray):
        yield batch
    elif isinstance(batch, list | tuple):
        yield batch
        for value in cast("list[Any]", batch):
            yield from _values(value)


def _rows_of(value: Any, size: int) -> Tensor | None:
    """A tensor, an array or a list with one row for each of `size` samples, as a tensor."""
    if isinstance(value, list | tuple):
        looks = [_look(each) for each in cast("list[Any]", value)[: size + 1]]
        numbers = [look.numbers[0] for look in looks if look is not None and look.shape == ()]
        value = torch.tensor(numbers if len(looks) == len(numbers) else [], dtype=torch.float64)
    elif isinstance(value, np.ndarray):
        array = cast("np.ndarray[Any, Any]", value)
        value = torch.tensor(array.tolist() if array.dtype.kind in "biuf" else [])
    rows = cast("Tensor", value).detach().cpu()
    is_usable = rows.ndim > 0 and len(rows) == size and rows.numel() and not rows.is_complex()
    return rows if is_usable and rows.layout == torch.strided else None
