"""The k highest scores of many, exactly, in O(N): a radix selection, never a sort."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from data_agent.errors import InputError
from data_agent.runtime.random import position_hash

_BINS = 65_536
_DIGIT = 0xFFFF


def top_k_mask(
    scores: Tensor, count: int, *, tie_seed: int, excluded: Tensor | None = None
) -> Tensor:
    """Mark the `count` highest scores; equal scores are drawn at random, by `tie_seed`.

    A histogram of the scores' upper 16 bits finds the bin that holds the threshold, and only the
    samples of that bin go on to the lower 16 bits, then to two digits of a random second key.

    Args:
        scores: float32 `[N]` without NaN.
        count: how many to mark, in [0, N less the excluded].
        tie_seed: seed of the second key.
        excluded: bool `[N]`, samples that must not be marked, or None.

    Returns:
        bool `[N]` with exactly `count` true.

    Raises:
        InputError: a score is NaN.
    """
    if torch.isnan(scores).any():
        raise InputError(f"{int(torch.isnan(scores).sum())} of {len(scores)} scores are NaN.")
    key = _ordered_bits(scores.float())
    mask = torch.zeros(len(scores), dtype=torch.bool)
    digits: tuple[Callable[[Tensor | None], Tensor], ...] = (
        lambda at: (_at(key, at) >> 16) + _BINS // 2,
        lambda at: _at(key, at) & _DIGIT,
        lambda at: position_hash(_positions(at, len(key)), tie_seed) >> 16,
        lambda at: position_hash(_positions(at, len(key)), tie_seed) & _DIGIT,
    )
    candidates = None if excluded is None else (~excluded).nonzero().squeeze(1)
    for digit_of in digits:
        digit = digit_of(candidates)
        threshold, num_above = _threshold_bin(digit, count)
        mask[_positions_where(candidates, digit > threshold)] = True
        candidates = _positions_where(candidates, digit == threshold)
        count -= num_above
        if count == len(candidates):
            break
    mask[_positions(candidates, len(key))[:count]] = True
    return mask


def _ordered_bits(values: Tensor) -> Tensor:
    """int32 keys in the order of the float32 `values`: flips the magnitude of negative ones."""
    bits = (values + 0.0).view(torch.int32)  # adding zero turns -0.0 into 0.0
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def _threshold_bin(digit: Tensor, count: int) -> tuple[int, int]:
    """The highest bin t with at least `count` members in bins >= t, and how many lie above it."""
    counts = torch.bincount(digit, minlength=_BINS)
    at_least = counts.flip(0).cumsum(0).flip(0)
    threshold = max(0, int((at_least >= count).sum()) - 1)
    return threshold, int(at_least[threshold] - counts[threshold])


def _at(values: Tensor, position: Tensor | None) -> Tensor:
    return values if position is None else values[position]


def _positions(position: Tensor | None, size: int) -> Tensor:
    return torch.arange(size) if position is None else position


def _positions_where(position: Tensor | None, where: Tensor) -> Tensor:
    found = where.nonzero().squeeze(1)
    return found if position is None else position[found]
