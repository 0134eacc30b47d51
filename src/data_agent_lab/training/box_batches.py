"""From a loader's indices to the images and boxes that a detector sees.

Augmentation is a pure function of (seed, epoch, index), as that of image tasks.
"""

from __future__ import annotations

import torch
from torch import Tensor, device

from data_agent_lab.data.boxes import DetectionData, Objects
from data_agent_lab.detection_recipe import DetectionRecipe
from data_agent_lab.training.batches import Pixels, random_bits

CONTRAST, BRIGHTNESS = 0.2, 20.0  # of a jittered image: share of it, and grey levels of 255
_BITS = 16


class BoxBatches:
    """Makes batches of images with their objects on `device`."""

    def __init__(
        self, data: DetectionData, recipe: DetectionRecipe, *, seed: int, device: device
    ) -> None:
        self._augment, self._seed, self._device = recipe.augment, seed, device
        self._pixels = Pixels(data.train_images, data.eval_images, device)
        self._train, self._eval = data.train_objects, data.eval_objects

    def training(self, index: Tensor, *, epoch: int | None) -> tuple[Tensor, Objects]:
        """Images float32 `[B, C, H, W]` and objects of training samples, int64 `[B]` on the CPU.

        They are augmented as in `epoch`, or come as they are if that is None.
        """
        images, objects = self._pixels.training(index), self._on_device(self._train.at(index))
        if epoch is not None and self._augment != "none":
            bits = random_bits(index, seed=self._seed, epoch=epoch).to(self._device)
            images, objects = flipped(images, objects, (bits & 1).bool())
            if self._augment == "flip-jitter":
                images = jittered(images, bits >> 1)
        return self._pixels.normalised(images), objects

    def evaluation(self, index: Tensor) -> tuple[Tensor, Objects]:
        """Images float32 `[B, C, H, W]` and objects of evaluation samples."""
        images = self._pixels.normalised(self._pixels.evaluation(index))
        return images, self._on_device(self._eval.at(index))

    def _on_device(self, objects: Objects) -> Objects:
        return Objects(*(part.to(self._device) for part in objects))


def flipped(images: Tensor, objects: Objects, is_flipped: Tensor) -> tuple[Tensor, Objects]:
    """Mirror some images `[B, C, H, W]`, bool `[B]`, left and right, and their boxes."""
    width, boxes = images.shape[3], objects.boxes
    mirrored = torch.stack(
        [width - boxes[..., 2], boxes[..., 1], width - boxes[..., 0], boxes[..., 3]], -1
    )
    mask = is_flipped[:, None, None]
    images = torch.where(mask[..., None], images.flip(3), images)
    return images, Objects(torch.where(mask, mirrored, boxes), objects.classes)


def jittered(images: Tensor, bits: Tensor) -> Tensor:
    """Images with more or less contrast, brighter or darker: float32 `[B, C, H, W]`.

    Grey levels are scaled by a factor in [0.8, 1.2], then up to 20 of 255 are added or taken off,
    both evenly drawn from `bits`, int64 `[B]`.
    """
    draws = [(bits >> start & (1 << _BITS) - 1) / (1 << _BITS) * 2 - 1 for start in (0, _BITS)]
    contrast, brightness = (draw[:, None, None, None] for draw in draws)
    return images * (1 + CONTRAST * contrast) + BRIGHTNESS * brightness
