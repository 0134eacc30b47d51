"""Which sample each row of a batch is, told by what both hold: labels, images, padded sequences.

Some numbers of each part of the samples are searched for in the rows of every tensor of the batch,
whatever its name and its dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from data_agent.loading.parts import Part, rows_of, values_of

_CERTAIN = 24.0  # bits: a coincidence of 1 in 16 million

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
        rows = [
            row for value in values_of(batch) if (row := rows_of(value, len(order))) is not None
        ]
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
