"""The highest scores of many, of all or of each group, exactly: histograms, never a sort of all.

Samples are ordered by their score and, where scores are equal, by a hash of position and seed. Both
are read a few bits at a time, from the highest on. A histogram of these bits in each group finds
the bin in which its threshold lies: what is above is taken, what is below is not, and only the
samples of that bin are looked at again. So the work is O(N), and memory is two bytes a sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_agent.errors import InputError
from data_agent.runtime.masks import size_of
from data_agent.runtime.random import hashed
from data_agent.runtime.shards import WHOLE, Shard

BLOCK = 32_768  # rows at a time, so that what is made of them stays in the processor's cache
FEW = 4_096  # so many are sorted
_COUNTERS = 1 << 18  # of all groups, likewise
_TAKEN, _OPEN = 2, 1

Rows = slice | NDArray[np.int64]
Candidates = NDArray[Any]  # a mask bool [N], or rows int64
Key = tuple[Callable[[Rows], NDArray[np.uint32]], int]
"""Rows -> numbers, the higher the better; and how many bits they have."""


def top_k_mask(
    scores: Tensor,
    count: int,
    *,
    tie_seed: int,
    excluded: Tensor | None = None,
    shard: Shard = WHOLE,
) -> Tensor:
    """Mark the `count` highest scores; equal scores are drawn at random, by `tie_seed`.

    Args:
        scores: `[N]` without NaN: bool, int8 or anything that float32 holds.
        count: how many to mark, in [0, N less the excluded].
        tie_seed: seed of the draws.
        excluded: bool `[N]`, samples that must not be marked, or None.
        shard: of which the N are: draws are those of the samples, whoever keeps them.

    Returns:
        bool `[N]` with exactly `count` true.

    Raises:
        InputError: a score is NaN.
    """
    among = None if excluded is None else ~excluded
    quota = torch.tensor([count])
    return highest_of_each(scores, quota, tie_seed=tie_seed, among=among, shard=shard)


def highest_of_each(
    scores: Tensor,
    quota: Tensor,
    *,
    tie_seed: int,
    group: Tensor | None = None,
    among: Tensor | None = None,
    shard: Shard = WHOLE,
) -> Tensor:
    """Mark the highest scores of each group, as many as its quota, or all where it has no more.

    Args:
        scores: `[N]`, as `top_k_mask`.
        quota: int64 `[1 + G]`, of those without a group and of each group; `[1]` if there are none.
        tie_seed: seed of the draws among equal scores.
        group: integers `[N]` in [-1, G), -1 for those without a group; None where all are so.
        among: bool `[N]`, the samples that count; None takes all. It is used up.
        shard: of which the N are, as `top_k_mask`.

    Returns:
        bool `[N]`.

    Raises:
        InputError: a score is NaN.
    """
    candidates = np.ones(len(scores), dtype=bool) if among is None else among.numpy()
    groups = None if group is None else group.numpy()
    keys = _keys(scores, tie_seed, shard)
    return _select(keys, len(scores), quota.numpy(), groups, candidates)


def draw_mask(
    size: int, count: int, seed: int, among: Tensor | None = None, shard: Shard = WHOLE
) -> Tensor:
    """Mark `count` of `size` samples, drawn at random by `seed`: bool `[size]`.

    The more that are drawn with one seed, the more are added to the same ones.

    Args:
        size: N.
        count: how many; all where there are no more.
        seed: of the draws.
        among: bool `[N]`, the samples that count; None takes all. It is used up.
        shard: of which the N are, as `top_k_mask`.
    """
    if count <= 0:
        return torch.zeros(size, dtype=torch.bool)
    among = torch.ones(size, dtype=torch.bool) if among is None else among
    if count >= (num_open := size_of(among)):
        return among
    key, candidates = _hash_key(seed, shard), among.numpy()
    enough = count + 8 * math.isqrt(count) + 64  # fewer are found once in 10^15 times
    if 16 * enough < num_open:
        likely = _rows_from(candidates, key, (1 << 32) - (enough << 32) // num_open)
        candidates = likely if len(likely) >= count else candidates
    return _select([key], size, np.array([count]), None, candidates)


def _rows_from(among: NDArray[np.bool_], key: Key, least: int) -> NDArray[np.int64]:
    """Those `among` bool `[N]` whose key is `least` or more; a pass instead of two."""
    found: list[NDArray[np.int64]] = []
    for start in range(0, len(among), BLOCK):
        block = among[start : start + BLOCK]
        is_high = key[0](slice(start, start + len(block))) >= np.uint32(least)
        found.append(np.flatnonzero(is_high & block) + start)
    return np.concatenate(found)


def _select(
    keys: list[Key],
    size: int,
    left: NDArray[np.int64],
    groups: NDArray[np.integer] | None,
    candidates: Candidates,
) -> Tensor:
    """Mark the highest candidates of each group, as many as are `left` to choose."""
    chosen = np.zeros(size, dtype=bool)
    num_bits = _bits_for(len(left), size)
    for digit in _digits(keys, num_bits):
        candidates = _listed(candidates)
        if candidates.dtype != bool and len(candidates) <= FEW:
            break
        left, candidates = _split(digit, num_bits, left, groups, chosen, candidates)
    rows = np.flatnonzero(candidates) if candidates.dtype == bool else candidates
    chosen[_highest_by_sort(keys, rows, left, groups)] = True
    return torch.from_numpy(chosen)


def _split(
    digit: Callable[[Rows], NDArray[np.int32]],
    num_bits: int,
    left: NDArray[np.int64],
    groups: NDArray[np.integer] | None,
    chosen: NDArray[np.bool_],
    candidates: Candidates,
) -> tuple[NDArray[np.int64], Candidates]:
    """Choose the candidates that lie above their group's threshold bin.

    Returns:
        How many of each group are still to be chosen, and of whom: those in that bin.
    """

    def codes() -> Iterator[tuple[Rows, NDArray[np.int32]]]:
        for rows, is_candidate in _blocks(candidates):
            code = digit(rows)
            code += 1
            if groups is not None:
                code += (groups[rows].astype(np.int32) + np.int32(1)) << num_bits
            if is_candidate is not None:
                code *= is_candidate  # bin 0 is of those that are none
            yield rows, code

    counts = torch.zeros(1 + (len(left) << num_bits), dtype=torch.int64)
    one = torch.ones(BLOCK, dtype=torch.int64)
    for _, code in codes():
        counts.scatter_add_(0, torch.from_numpy(code).long(), one[: len(code)])
    fate, left = _fates(counts[1:].numpy().reshape(len(left), -1), left)
    is_open = candidates if candidates.dtype == bool else np.zeros(len(candidates), dtype=bool)
    done = 0
    for rows, code in codes():
        decided = fate.take(code)
        chosen[rows] |= decided == _TAKEN
        where = rows if candidates.dtype == bool else slice(done, done + len(code))
        is_open[where] = decided == _OPEN
        done += len(code)
    return left, is_open if candidates.dtype == bool else candidates[is_open]


def _fates(
    counts: NDArray[np.int64], left: NDArray[np.int64]
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """What becomes of samples in each bin `[1 + G * bins]`, and what is then left to choose."""
    at_least = counts[:, ::-1].cumsum(1)[:, ::-1]
    threshold = np.maximum((at_least >= left[:, None]).sum(1) - 1, 0)
    here = np.arange(len(left)), threshold
    left = left - (at_least[here] - counts[here])
    fate = np.where(np.arange(counts.shape[1]) > threshold[:, None], _TAKEN, 0).astype(np.uint8)
    is_whole = left >= counts[here]
    fate[here] = np.where(is_whole, _TAKEN, np.where(left > 0, _OPEN, 0))
    return np.append(np.uint8(0), fate), np.where(is_whole, 0, left)


def _highest_by_sort(
    keys: list[Key],
    rows: NDArray[np.int64],
    left: NDArray[np.int64],
    groups: NDArray[np.integer] | None,
) -> NDArray[np.int64]:
    """Of a few rows the highest of each group, as many as are left to choose."""
    group = np.zeros(len(rows), dtype=int) if groups is None else groups[rows].astype(int) + 1
    order = np.lexsort([*(key(rows) for key, _ in reversed(keys)), group])
    group = group[order]
    rank = np.bincount(group, minlength=len(left)).cumsum()[group] - np.arange(len(rows))
    return rows[order[rank <= left[group]]]


def _digits(keys: list[Key], num_bits: int) -> Iterator[Callable[[Rows], NDArray[np.int32]]]:
    """The keys in parts of at most `num_bits` bits, from the highest on."""
    for key, width in keys:
        for low in range(width - num_bits, -num_bits, -num_bits):
            shift, mask = max(low, 0), (1 << min(num_bits, num_bits + low)) - 1
            yield lambda rows, key=key, shift=shift, mask=mask: ((key(rows) >> shift) & mask).view(
                np.int32
            )


def _bits_for(num_groups: int, size: int) -> int:
    """Bits a digit: a byte or more where that costs not more memory than the samples' masks."""
    fitting = (_COUNTERS // num_groups).bit_length() - 1
    affordable = (size // (16 * num_groups)).bit_length() - 1
    return max(1, min(16, max(fitting, min(8, affordable))))


def _listed(candidates: Candidates) -> Candidates:
    """Of a mask the places, where these are few: others are then not looked at again."""
    if candidates.dtype != bool:
        return candidates
    are_few = np.count_nonzero(candidates) <= max(FEW, len(candidates) // 16)
    return np.flatnonzero(candidates) if are_few else candidates


def _blocks(candidates: Candidates) -> Iterator[tuple[Rows, NDArray[np.bool_] | None]]:
    """The candidates' rows in blocks; where they are most of one all its rows, and which they are.

    Whole blocks are read several times as fast as rows picked out of them.
    """
    for start in range(0, len(candidates), BLOCK):
        block = candidates[start : start + BLOCK]
        num_open = np.count_nonzero(block)
        if block.dtype != bool:
            yield block, None
        elif 2 * num_open > len(block):
            yield slice(start, start + len(block)), None if num_open == len(block) else block
        elif num_open:
            yield np.flatnonzero(block) + start, None


def _keys(scores: Tensor, seed: int, shard: Shard) -> list[Key]:
    """In the order of the scores, then of the hash: bytes as they are, most others as float32."""
    by_hash = _hash_key(seed, shard)
    if scores.dtype == torch.bool:  # so few different scores would take a round for a single bit
        flags = scores.numpy()
        one = np.uint32(1)
        return [(lambda rows: (flags[rows] * (one << 31)) | (by_hash[0](rows) >> one), 32)]
    if scores.dtype == torch.int8:
        offset = scores.numpy().view(np.uint8)
        return [(lambda rows: (offset[rows] ^ np.uint8(0x80)).astype(np.uint32), 8), by_hash]
    values = scores.float().numpy()
    starts = range(0, len(values), BLOCK)
    if num_missing := sum(np.count_nonzero(np.isnan(values[s : s + BLOCK])) for s in starts):
        raise InputError(f"{num_missing} of {len(values)} scores are NaN.")
    return [(lambda rows: _ordered_bits(values[rows]), 32), by_hash]


def _ordered_bits(values: NDArray[np.float32]) -> NDArray[np.uint32]:
    """In the order of the values: flips the sign, and all bits of negative ones."""
    bits = (values + np.float32(0)).view(np.int32)  # adding zero turns -0.0 into 0.0
    bits ^= (bits >> 31) | np.int32(-(2**31))
    return bits.view(np.uint32)


def _hash_key(seed: int, shard: Shard) -> Key:
    def key(rows: Rows) -> NDArray[np.uint32]:
        if isinstance(rows, slice):
            first, end = (place * shard.world + shard.rank for place in (rows.start, rows.stop))
            return hashed(np.arange(first, end, shard.world), seed)
        return hashed(rows * shard.world + shard.rank if shard.is_part else rows, seed)

    return key, 32
