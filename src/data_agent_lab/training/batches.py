"""From a loader's indices to the pixels that a model sees, on the device where it computes."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor, device

from data_agent_lab.data.image_data import ImageData, channel_statistics
from data_agent_lab.recipes import ImageRecipe
from data_agent_lab.training.augment import augment
from data_agent_lab.training.devices import pick, place

_SHIFT = 8  # images are shifted by up to an eighth of their side: 4 of 32 pixels, as usual


class Batches:
    """Makes batches of images; the decoded data set lies on the device if there is room.

    Args:
        data: the data set.
        recipe: says how to augment.
        seed: of the augmentation.
        device: where the batches are made.

    Attributes:
        device: as given.
    """

    def __init__(self, data: ImageData, recipe: ImageRecipe, *, seed: int, device: device) -> None:
        self._recipe = recipe
        self._seed = seed
        self.device = device
        self._train = place(data.train_images, device)
        self._eval = place(data.eval_images, device)
        mean, deviation = channel_statistics(data.train_images)
        self._mean = mean.view(1, -1, 1, 1).to(device)
        self._deviation = deviation.view(1, -1, 1, 1).to(device)

    def without_augmentation(self) -> Batches:
        """The same, but training images come as they are."""
        twin = copy.copy(self)
        twin._recipe = replace(self._recipe, augment="none")
        return twin

    def training(self, index: Tensor, *, epoch: int) -> Tensor:
        """Augmented `[B, C, H, W]` of the training samples `index` (int64 `[B]`, on the CPU)."""
        images = pick(self._train, index, self.device)
        if self._recipe.augment != "none":
            images = augment(
                images,
                index.to(self.device),
                seed=self._seed,
                epoch=epoch,
                padding=self._recipe.image_size // _SHIFT,
                flip=self._recipe.augment == "crop-flip",
            )
        return self._normalised(images)

    def evaluation(self, index: Tensor) -> Tensor:
        """float32 `[B, C, H, W]` of the evaluation samples `index` (int64 `[B]`, on the CPU)."""
        return self._normalised(pick(self._eval, index, self.device))

    def _normalised(self, images: Tensor) -> Tensor:
        """Zero mean and unit variance in each channel; in the layout convolutions are fast in."""
        normalised = (images.float() / 255 - self._mean) / self._deviation
        return normalised.contiguous(memory_format=torch.channels_last)
