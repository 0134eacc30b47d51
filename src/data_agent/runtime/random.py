"""Randomness without state: each draw is a function of (seed, purpose, position).

Nothing here reads or changes a global generator, and no generator is kept: what is drawn for
epoch e, step t or block b is the same after a restore, on every rank and on every device type.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_agent.errors import InputError

__all__ = [
    "Purpose",
    "check_seed",
    "derived_seed",
    "generator",
    "hashed",
    "permutation",
    "position_hash",
    "projection",
]


class Purpose(IntEnum):
    """What a draw is for; draws of different purposes are independent."""

    PERMUTATION = 0
    ORDER = 1
    NETWORK = 2
    PROJECTION = 3
    ACTION = 4
    ROLLOUT = 5
    REDRAW = 6
    TIE = 7
    EXPLORE = 8
    BATCH = 9
    PRUNE = 10
    SUBSET = 11
    UNIFORM = 12
    UPDATE = 13
    TRUSTED = 14
    SHARD = 15


def check_seed(seed: object) -> None:
    """A seed is a whole number >= 0.

    Raises:
        InputError: it is not.
    """
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise InputError(f"seed is {seed!r}; expected a whole number >= 0.")


def derived_seed(seed: int, purpose: Purpose, *position: int) -> int:
    """A 63-bit seed for the draw at `position` (for example an epoch and a block).

    Positions of one purpose have one length: a position that is left out counts as 0.
    """
    words = np.random.SeedSequence([seed, int(purpose), *position]).generate_state(2, np.uint32)
    return (int(words[0]) << 31) ^ int(words[1])


def generator(
    seed: int, purpose: Purpose, *position: int, device: torch.device | str = "cpu"
) -> torch.Generator:
    """A fresh generator on `device` for the draw at `position`."""
    return torch.Generator(device=device).manual_seed(derived_seed(seed, purpose, *position))


def projection(width: int, reduced: int, seed: int) -> Tensor:
    """float32 `[width, reduced]`: a fixed random projection that keeps lengths on average."""
    draws = generator(seed, Purpose.PROJECTION)
    return torch.randn(width, reduced, generator=draws) / reduced**0.5


def permutation(size: int, seed: int, purpose: Purpose, *position: int) -> Tensor:
    """int64 `[size]`: a uniformly random order of 0..size-1."""
    return torch.randperm(size, generator=generator(seed, purpose, *position))


def position_hash(position: Tensor, seed: int) -> Tensor:
    """Pseudo-random int64 in [0, 2^32) for each int64 position, see `hashed`."""
    return torch.from_numpy(hashed(position.numpy(), seed).astype(np.int64))


def hashed(position: NDArray[np.int64], seed: int) -> NDArray[np.uint32]:
    """Pseudo-random numbers, the upper half of SplitMix64 (Steele et al. 2014), one a position.

    The order of samples by them stands for a random permutation, without a sort or memory.
    """
    z = position.astype(np.uint64)
    z += np.uint64((seed + 1) * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF)
    part = np.empty_like(z)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z ^= np.right_shift(z, np.uint64(shift), out=part)
        z *= np.uint64(factor)
    return (z >> np.uint64(32)).astype(np.uint32)
