"""The embedded task: scikit-learn's handwritten digits, 8 x 8 pixels in 16 grey levels."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits as _load_digits

from data_agent.errors import InputError
from data_agent_lab.data.image_data import ImageData, choose_rows, hold_out, with_near_copies
from data_agent_lab.data.pixels import fit
from data_agent_lab.recipes import ImageRecipe
from data_agent_lab.rules import flag_of

NUM_TRAIN = 448  # a quarter of the 1,797, 14 batches of 32: with more, every method is near 99 %


def load_digits(recipe: ImageRecipe) -> ImageData:
    """The digits data set, a quarter to train on and the rest to evaluate; the same for every run.

    Raises:
        InputError: a subset larger than the training data, or other data or labels.
    """
    given = {
        flag_of(name): getattr(recipe, name)
        for name in ("data", "train_labels", "foreign_data", "trusted")
    }
    if any(given.values()):
        raise InputError(
            "the task digits has its own data, but "
            + ", ".join(f"{flag} is {value!r}" for flag, value in given.items() if value)
            + ". For other images use --task image."
        )
    # UCI "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak 1998), its test part.
    bunch = cast("Any", _load_digits())
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    scaled = [np.asarray(fit(Image.fromarray(image), recipe.image_size)) for image in pixels]
    images = torch.from_numpy(np.stack(scaled))[:, None]
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    others, train = hold_out(labels, NUM_TRAIN)
    chosen, num_copies = choose_rows(labels[train], recipe)
    rows = train[chosen]
    data = ImageData(
        train_images=images[rows],
        train_labels=labels[rows],
        eval_images=images[others],
        eval_labels=labels[others],
        class_names=tuple(str(name) for name in bunch.target_names),
        evaluation="the other three quarters of the digits",
    )
    return with_near_copies(data, num_copies)
