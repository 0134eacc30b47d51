"""From a loader's indices to the pixels that a model sees, on the device where it computes.

Augmentation is a pure function of (seed, epoch, index): a resumed run augments like an
uninterrupted one, and a sample looks the same in an epoch whichever method selected it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, device

from data_agent_lab.data.image_data import ImageData, channel_statistics
from data_agent_lab.recipes import ImageRecipe

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIELD = 0xFFFFF  # 20 bits
_SHIFT = 8  # images are shifted by up to an eighth of their side: 4 of 32 pixels, as usual


class Batches:
    """Makes batches of images on `device`; the decoded data set lies there if there is room."""

    def __init__(self, data: ImageData, recipe: ImageRecipe, *, seed: int, device: device) -> None:
        self._recipe, self._seed = recipe, seed
        self._pixels = Pixels(data.train_images, data.eval_images, device)

    def training(self, index: Tensor, *, epoch: int | None) -> Tensor:
        """float32 `[B, C, H, W]` of the training samples `index` (int64 `[B]`, on the CPU).

        They are augmented as in `epoch`, or come as they are if that is None.
        """
        images, augmentation = self._pixels.training(index), self._recipe.augment
        if epoch is not None and augmentation != "none":
            padding, flip = self._recipe.image_size // _SHIFT, augmentation == "crop-flip"
            images = augment(
                images, index, seed=self._seed, epoch=epoch, padding=padding, flip=flip
            )
        return self._pixels.normalised(images)

    def evaluation(self, index: Tensor) -> Tensor:
        """float32 `[B, C, H, W]` of the evaluation samples `index` (int64 `[B]`, on the CPU)."""
        return self._pixels.normalised(self._pixels.evaluation(index))


class Pixels:
    """Images of training and evaluation, uint8 `[N, C, H, W]`, and how a model sees them."""

    def __init__(self, train: Tensor, evaluation: Tensor, device: device) -> None:
        self._device = device
        self._train, self._eval = _placed(train, device), _placed(evaluation, device)
        mean, deviation = channel_statistics(train)
        self._mean = mean.view(1, -1, 1, 1).to(device)
        self._deviation = deviation.view(1, -1, 1, 1).to(device)

    def training(self, index: Tensor) -> Tensor:
        """uint8 `[B, C, H, W]` of training images, on the device; `index` is on the CPU."""
        return self._picked(self._train, index)

    def evaluation(self, index: Tensor) -> Tensor:
        """uint8 `[B, C, H, W]` of evaluation images, on the device; `index` is on the CPU."""
        return self._picked(self._eval, index)

    def _picked(self, images: Tensor, index: Tensor) -> Tensor:
        return images[index.to(images.device)].to(self._device, non_blocking=True)

    def normalised(self, images: Tensor) -> Tensor:
        """Zero mean and unit variance in each channel; in the layout convolutions are fast in."""
        normalised = (images.float() / 255 - self._mean) / self._deviation
        return normalised.contiguous(memory_format=torch.channels_last)


def _placed(images: Tensor, device: device) -> Tensor:
    """On the device, if that is CUDA and they take less than half of what is free there."""
    if device.type == "cuda" and images.nbytes < torch.cuda.mem_get_info(device)[0] // 2:
        return images.to(device)
    return images


def augment(
    images: Tensor, index: Tensor, *, seed: int, epoch: int, padding: int, flip: bool
) -> Tensor:
    """Shift each image by up to `padding` pixels (black moves in) and mirror every second one.

    Equals cropping at random from the image padded on all sides, as usual for CIFAR. Takes and
    returns `[B, C, H, W]` of any dtype; `index` is int64 `[B]` on the CPU, positions in the
    dataset. Only with `flip` are images mirrored.
    """
    bits = random_bits(index, seed=seed, epoch=epoch).to(images.device)
    down, right = ((bits >> start & _FIELD) % (2 * padding + 1) for start in (0, 20))
    height, width = images.shape[-2:]
    rows = torch.arange(height, device=images.device) + down[:, None]
    columns = torch.arange(width, device=images.device)
    if flip:
        is_flipped = (bits >> 40 & 1).bool()
        columns = torch.where(is_flipped[:, None], columns.flip(0), columns)
    columns = columns + right[:, None]
    padded = torch.nn.functional.pad(images, [padding] * 4)
    sample = torch.arange(len(images), device=images.device)
    # Indexing dims 0, 2, 3 around a slice puts the indexed dims first: [B, H, W, C].
    picked = padded[sample[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return picked.permute(0, 3, 1, 2).contiguous()


def random_bits(index: Tensor, *, seed: int, epoch: int) -> Tensor:
    """64 pseudo-random bits for each sample: int64 `[B]`, a hash of (seed, epoch, index).

    SplitMix64 (Steele, Lea and Flood 2014); `index` is int64 `[B]` on the CPU.
    """
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64
        state = _mix(np.uint64(seed) + _GOLDEN)
        state = _mix((state ^ np.uint64(epoch)) + _GOLDEN)
        bits = _mix(state + index.numpy().astype(np.uint64) * _GOLDEN)
    return torch.from_numpy(bits.view(np.int64))


def _mix(z: Any) -> Any:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
