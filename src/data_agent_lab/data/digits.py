"""The embedded task: scikit-learn's handwritten digits, 8 x 8 pixels in 16 grey levels."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits as _load_digits
from torch import Tensor

from data_agent.errors import InputError
from data_agent_lab.data.image_data import ImageData, stratified
from data_agent_lab.data.pixels import fit
from data_agent_lab.data.regimes import choose_rows, with_near_copies
from data_agent_lab.recipes import ImageRecipe

NUM_TRAIN = 448  # a quarter of the 1,797, 14 batches of 32: with more, every method is near 99 %


def load_digits(recipe: ImageRecipe) -> ImageData:
    """The digits data set, a quarter to train on and the rest to evaluate; the same for every run.

    Args:
        recipe: names the size of the images (the originals have 8 pixels) and the regime.

    Raises:
        InputError: a subset larger than the training data, or other data or labels.
    """
    if recipe.data is not None or recipe.train_labels is not None:
        raise InputError(
            f"the task digits has its own data, but --data is {recipe.data!r} and --train-labels "
            f"{recipe.train_labels!r}. For other images use --task image."
        )
    # UCI "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak 1998), its test part.
    bunch = cast("Any", _load_digits())
    images = _to_pixels(bunch.images, recipe.image_size)
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    train = stratified(labels, NUM_TRAIN)
    is_train = torch.zeros(len(labels), dtype=torch.bool)
    is_train[train] = True
    rows, num_copies = choose_rows(labels[train], recipe)
    data = ImageData(
        train_images=images[train[rows]],
        train_labels=labels[train[rows]],
        eval_images=images[~is_train],
        eval_labels=labels[~is_train],
        class_names=tuple(str(name) for name in bunch.target_names),
        evaluation="the other three quarters of the digits",
    )
    return with_near_copies(data, num_copies)


def _to_pixels(levels: np.ndarray, size: int) -> Tensor:
    """uint8 `[N, 1, size, size]` of grey levels 0 to 16, float `[N, 8, 8]`."""
    pixels = np.rint(levels * (255 / 16)).astype(np.uint8)
    scaled = [np.asarray(fit(Image.fromarray(image), size)) for image in pixels]
    return torch.from_numpy(np.stack(scaled))[:, None]
