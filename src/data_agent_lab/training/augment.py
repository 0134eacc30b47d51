"""Augmentation as a pure function of (seed, epoch, index): the same for any batch composition.

No random generator is used, so a resumed run augments like an uninterrupted one, and a sample
looks the same in an epoch whichever method asked for it.
"""

from __future__ import annotations

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = 0xFFFFFFFFFFFFFFFF


def augment(
    images: Tensor, index: Tensor, *, seed: int, epoch: int, padding: int, flip: bool
) -> Tensor:
    """Shift each image by up to `padding` pixels (black moves in) and mirror every second one.

    Equals cropping at random from the image padded on all sides, as usual for CIFAR.

    Args:
        images: `[B, C, H, W]`, any dtype.
        index: int64 `[B]`, positions in the dataset, on the device of `images`.
        seed: the run's seed.
        epoch: from 0.
        padding: largest shift in pixels, 0 or more.
        flip: mirror horizontally with probability one half.

    Returns:
        `[B, C, H, W]` of the same dtype, a new tensor.
    """
    bits = random_bits(index, seed=seed, epoch=epoch)
    span = 2 * padding + 1
    down = _field(bits, 0, 20) % span
    right = _field(bits, 20, 20) % span
    height, width = images.shape[-2:]
    rows = torch.arange(height, device=images.device) + down[:, None]
    columns = torch.arange(width, device=images.device)
    if flip:
        is_flipped = _field(bits, 40, 1).bool()
        columns = torch.where(is_flipped[:, None], columns.flip(0), columns)
    columns = columns + right[:, None]
    padded = torch.nn.functional.pad(images, [padding] * 4)
    sample = torch.arange(len(images), device=images.device)
    # Indexing dims 0, 2, 3 around a slice puts the indexed dims first: [B, H, W, C].
    picked = padded[sample[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return picked.permute(0, 3, 1, 2).contiguous()


def random_bits(index: Tensor, *, seed: int, epoch: int) -> Tensor:
    """64 pseudo-random bits for each sample, a hash of (seed, epoch, index).

    SplitMix64's output function (Steele, Lea and Flood 2014) on int64, which wraps like uint64.

    Args:
        index: int64 `[B]`.
        seed: any integer.
        epoch: any integer.

    Returns:
        int64 `[B]` on the device of `index`.
    """
    base = _mix_int(_mix_int(seed) ^ epoch)
    return _mix(index * _signed(_GOLDEN) + _signed(base))


def _mix(z: Tensor) -> Tensor:
    z = (z ^ _shift_right(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shift_right(z, 27)) * _signed(0x94D049BB133111EB)
    return z ^ _shift_right(z, 31)


def _mix_int(z: int) -> int:
    """One SplitMix64 step on a Python integer, in [0, 2^64)."""
    z = (z + _GOLDEN) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


def _shift_right(z: Tensor, count: int) -> Tensor:
    """Logical shift: int64's own shift would drag the sign bit in."""
    return (z >> count) & ((1 << (64 - count)) - 1)


def _field(bits: Tensor, start: int, count: int) -> Tensor:
    return _shift_right(bits, start) & ((1 << count) - 1) if start else bits & ((1 << count) - 1)


def _signed(value: int) -> int:
    """The int64 with the same 64 bits."""
    return value - (1 << 64) if value >= 1 << 63 else value
