"""Sets of samples: as a mask, a byte each; as a list of places; packed, a bit each.

Masks of very many samples are made by NumPy, which asks for huge pages: of the 4 KiB pages that
torch gets, each is a wait for the system, and these take longer than the work.
"""

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


def copy_of(mask: Tensor) -> Tensor:
    """A bool `[N]` of its own."""
    return torch.from_numpy(mask.numpy().copy())


def only(first: Tensor, second: Tensor) -> Tensor:
    """Bool `[N]`: where the first of two bool `[N]` is True and the second is not."""
    return torch.from_numpy(first.numpy() > second.numpy())


def neither(first: Tensor, second: Tensor) -> Tensor:
    """Bool `[N]`: where none of two bool `[N]` is True."""
    mask = first.numpy() | second.numpy()
    return torch.from_numpy(np.logical_not(mask, out=mask))


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
