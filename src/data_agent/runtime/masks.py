"""Sets of samples: as a mask, a byte each; as a list of places; packed, a bit each."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from data_agent.errors import CheckpointError


def mask_of(places: Tensor, size: int) -> Tensor:
    """Bool `[size]`: True at `places`, int64."""
    mask = np.zeros(size, dtype=bool)
    mask[places.numpy()] = True
    return torch.from_numpy(mask)


def places_of(mask: Tensor) -> Tensor:
    """int64, ascending: where a bool `[N]` is True."""
    return torch.from_numpy(np.flatnonzero(mask.numpy()))


def size_of(mask: Tensor) -> int:
    """How many of a bool `[N]` are True; many times as fast as `mask.sum()`."""
    return int(np.count_nonzero(mask.numpy()))


def packed(mask: Tensor) -> Tensor:
    """uint8 `[ceil(N / 8)]`: one bit a sample of a bool `[N]`."""
    return torch.from_numpy(np.packbits(mask.numpy()))


def unpacked(bits: Tensor, size: int) -> Tensor:
    """Bool `[size]`: what was packed.

    Raises:
        CheckpointError: another number of samples.
    """
    if bits.dtype != torch.uint8 or len(bits) != (size + 7) // 8:
        raise CheckpointError(f"a selection of {size} samples cannot be {len(bits)} bytes.")
    return torch.from_numpy(np.unpackbits(bits.numpy(), count=size).view(np.bool_))
