"""The embedded task: scikit-learn's handwritten digits, 8 x 8 pixels in 16 grey levels."""

from __future__ import annotations

import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from data_agent.errors import InputError
from data_agent_lab.data.image_data import ImageData, choose_rows, hold_out, with_near_copies
from data_agent_lab.data.pixels import Canvas
from data_agent_lab.recipes import ImageRecipe
from data_agent_lab.rules import flag_of

_FILE = Path("datasets", "data", "digits.csv.gz")
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
    levels, target = read_digits()
    pixels = np.rint(levels * (255 / 16)).astype(np.uint8)
    canvas = Canvas(recipe.image_size, recipe.image_size)
    scaled = [np.asarray(canvas.place(Image.fromarray(image))) for image in pixels]
    images = torch.from_numpy(np.stack(scaled))[:, None]
    labels = torch.from_numpy(target)
    others, train = hold_out(labels, NUM_TRAIN)
    chosen, num_copies = choose_rows(labels[train], recipe)
    rows = train[chosen]
    data = ImageData(
        train_images=images[rows],
        train_labels=labels[rows],
        eval_images=images[others],
        eval_labels=labels[others],
        class_names=tuple(map(str, range(10))),
        evaluation="the other three quarters of the digits",
    )
    return with_near_copies(data, num_copies)


def read_digits() -> tuple[np.ndarray, np.ndarray]:
    """Grey levels float64 `[1797, 8, 8]` in [0, 16], and digits int64 `[1797]`.

    Read from where scikit-learn keeps them: importing it takes longer than reading, in each of a
    comparison's processes.

    Raises:
        ModuleNotFoundError: scikit-learn is not installed, or keeps them elsewhere.
    """
    package = find_spec("sklearn")
    file = Path(package.origin if package and package.origin else "").parent / _FILE
    if not file.is_file():
        raise ModuleNotFoundError(f"scikit-learn is needed for {_FILE}.", name="sklearn")
    with gzip.open(file, "rt") as lines:
        table = np.loadtxt(lines, delimiter=",")
    return table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(np.int64)
