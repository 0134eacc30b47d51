"""Calling a collate function of the user's, and finding out which sample each row of it is.

A collate function may sort its samples (the usual recipe for padding), leave some out, or copy the
list first. It sees samples that note when they are read. The order of the last pass in which it
read each part of a sample is the order of the rows, unless their contents tell another one; where
it cannot be told, the batch is refused.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from functools import cache, partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from data_agent.errors import InputError
from data_agent.loading.contents import Contents
from data_agent.loading.parts import parts_of
from data_agent.loading.reads import orders_of

INDEX_KEY = "sample_index"
_CARRY_IT = (
    "pass IndexedDataset(dataset) instead of the dataset: your collate function then gets the "
    "index as a sample's last element (in mappings under 'sample_index') and carries it itself"
)


class IndexedSample(NamedTuple):
    """A sample that is neither a sequence nor a mapping, with its index."""

    sample: Any
    index: Any


def with_index(sample: Any, index: Any) -> Any:
    """`sample` with its index added, as `IndexedDataset` describes."""
    if isinstance(sample, Mapping):
        refuse_own_index(cast("Mapping[Any, Any]", sample))
        return {**sample, INDEX_KEY: index}
    if isinstance(sample, list):
        return [*cast("list[Any]", sample), index]
    if isinstance(sample, tuple):
        elements = (*cast("tuple[Any, ...]", sample), index)
        kind: Any = type(cast("object", sample))
        return _with_field(kind)(*elements) if hasattr(kind, "_fields") else elements
    return IndexedSample(sample, index)


@cache
def _with_field(kind: Any) -> Any:
    """The named tuple `kind` with the index as a further last field."""
    refuse_own_index(dict.fromkeys(kind._fields))
    fields: Any = (*kind._fields, INDEX_KEY)
    with_field: Any = namedtuple(kind.__name__, fields)  # pyright: ignore[reportUntypedNamedTuple]
    with_field.__reduce__ = lambda self: (_rebuilt, (kind, *self))  # from worker processes
    return with_field


def _rebuilt(kind: Any, *elements: Any) -> Any:
    return _with_field(kind)(*elements)


def refuse_own_index(fields: Mapping[Any, Any]) -> None:
    """A field called like the index must not be overwritten."""
    if INDEX_KEY in fields:
        raise InputError(
            f"the samples have a {INDEX_KEY!r} of their own, under which the position is to come. "
            "Rename that field in the dataset, or leave it out in the collate function."
        )


class CollateWithIndex:
    """Calls a collate function of one's own with the plain samples and adds the index to its batch.

    Args:
        collate_fn: list of samples -> batch (a mapping, list, tuple or tensor).
        prepare: what is done to each sample before, if anything.
    """

    def __init__(
        self,
        collate_fn: Callable[[list[Any]], Any],
        prepare: Callable[[Any], Any] | None = None,
    ) -> None:
        self.collate_fn = collate_fn
        self._prepare = prepare
        self._contents = Contents()

    def __call__(self, samples: list[IndexedSample]) -> Any:
        """The batch, with the int64 `[B]` index as last element or under "sample_index".

        Raises:
            InputError: no batch the index can ride in, or its rows cannot be told apart.
        """
        reads: dict[object, list[int]] = {}
        prepare = self._prepare
        plain = [sample if prepare is None else prepare(sample) for sample, _ in samples]
        given = [_noting(sample, place, reads) for place, sample in enumerate(plain)]
        before, parts = list(given), parts_of(plain) if len(plain) > 1 else []
        batch = _plain(self.collate_fn(given))
        num_rows = _num_rows(batch)
        order = _order_of(given, before, _telling(reads, batch), num_rows)
        if parts:
            unclear = partial(_unclear, len(samples), num_rows)
            order = self._contents.order_of(
                batch, parts, order, is_read=bool(reads), unclear=unclear
            )
        index = torch.tensor([samples[place].index for place in order], dtype=torch.int64)
        if isinstance(batch, MutableMapping):  # of its own type, such as BatchEncoding
            refuse_own_index(cast("Mapping[Any, Any]", batch))
            batch[INDEX_KEY] = index
            return cast("Any", batch)
        if not isinstance(batch, Mapping | list | tuple | Tensor):
            raise InputError(
                f"the collate function returned {type(batch).__name__}; the index can ride in a "
                f"mapping, list, tuple or beside a tensor. Else {_CARRY_IT}."
            )
        return with_index(batch, index)


class _Notes:
    """A sample that notes which of its parts is read."""

    note: Callable[[object], None]

    def __getitem__(self, key: Any) -> Any:
        self.note("slice" if isinstance(key, slice) else key)
        return cast("Any", super()).__getitem__(key)


class _Mapping(_Notes, dict[Any, Any]):
    def __iter__(self) -> Iterator[Any]:  # of its own, so that {**sample} reads field by field
        return super().__iter__()

    # Those of `dict` would not ask `__getitem__`.
    get: Any = MutableMapping.get
    pop: Any = MutableMapping.pop
    items: Any = MutableMapping.items
    values: Any = MutableMapping.values


class _Sequence(_Notes):
    def __iter__(self) -> Iterator[Any]:
        self.note("whole")
        return cast("Any", super()).__iter__()


class _Tuple(_Sequence, tuple[Any, ...]):
    pass


class _List(_Sequence, list[Any]):
    pass


_NOTING: dict[type, type] = {dict: _Mapping, tuple: _Tuple, list: _List}


def _noting(sample: Any, place: int, reads: dict[object, list[int]]) -> Any:
    """The sample, noting reads if it is a plain mapping, tuple or list; others as they are."""
    if type(sample) not in _NOTING:
        return sample
    noting = _NOTING[type(sample)](sample)

    def note(part: object) -> None:
        places = reads.pop(part, [])  # so that the part that was read last comes last
        places.append(place)
        reads[part] = places

    noting.note = note
    return noting


def _telling(reads: dict[object, list[int]], batch: Any) -> dict[object, list[int]]:
    """The reads that tell the order of rows: not those that were made to sort by."""
    named = {part: reads[part] for part in reads if isinstance(batch, Mapping) and part in batch}
    if named:
        return named
    last = next(reversed(reads), None)
    return {last: reads[last]} if last == "whole" else reads


def _plain(batch: Any) -> Any:
    """The batch without samples that note: a function may return a copy of one."""
    if type(batch) is _Mapping:
        return dict(dict.items(batch))
    return list(list.__iter__(batch)) if type(batch) is _List else batch


def _order_of(
    given: list[Any], before: list[Any], reads: dict[object, list[int]], num_rows: int | None
) -> list[int]:
    """The places of the samples in the order of the batch's rows.

    From the list that the function got, as it left it and as it was before, and from the places of
    the samples whose parts were read, in that order, by part.
    """
    size = len(before)
    place_of = {id(sample): place for place, sample in enumerate(before)}
    listed = [place_of[id(sample)] for sample in given if id(sample) in place_of]
    if num_rows is not None and num_rows > size:
        raise _unclear(size, num_rows, "rows were filled up or repeated")
    count = size if num_rows in (None, 1) else num_rows  # all may lie in one row
    is_changed = listed != [*range(size)]
    options = [
        orders
        for places in reads.values()
        if (orders := orders_of(places, size, count, listed, is_changed=is_changed))
    ]
    if options:
        orders = set.intersection(*options)
        if len(orders) == 1:
            return list(orders.pop())
        raise _unclear(
            size,
            num_rows,
            "it looked at some again, so that two orders are possible"
            if orders
            else "its parts are in different orders",
        )
    if reads or (num_rows is not None and num_rows < size):
        raise _unclear(size, num_rows, "which samples it left out cannot be told")
    return listed


def _parts(value: Any) -> dict[Any, Any]:
    """What a sample or a batch is made of, by name or by place."""
    if isinstance(value, Mapping):
        return dict(cast("Mapping[Any, Any]", value))
    return dict(enumerate(cast("list[Any]", value))) if isinstance(value, list | tuple) else {}


def _num_rows(batch: Any) -> int | None:
    """Rows of a batch: the one length that all of its tensors have; None if they differ."""
    parts = [batch] if isinstance(batch, Tensor) else _parts(batch).values()
    lengths = {part.size(0) for part in parts if isinstance(part, Tensor) and part.ndim}
    return lengths.pop() if len(lengths) == 1 else None


def _unclear(size: int, num_rows: int | None, why: str) -> InputError:
    rows = "" if num_rows is None else f" and made {num_rows} rows of them"
    return InputError(
        f"the collate function got {size} samples{rows}, and {why}, so it is not known which "
        "sample each row is. Let it keep one row for each sample, in one order for all parts; or "
        f"{_CARRY_IT}."
    )
