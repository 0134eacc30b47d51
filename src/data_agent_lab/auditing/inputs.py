"""Sketches of the samples that a run was trained on, from its own data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from data_agent.duplicates import (
    FEATURE_LIKENESS,
    IMAGE_LIKENESS,
    TEXT_LIKENESS,
    are_same_picture,
    are_same_text,
    image_sketches,
    small_images,
    text_sketches,
    token_pairs,
)
from data_agent.errors import DataAgentError, InputError
from data_agent_lab.configurations import recipe_of
from data_agent_lab.recipes import PromptRecipe, TextRecipe
from data_agent_lab.tasks import load_kept


class Sketches(NamedTuple):
    """Float32 `[N, D]`, and the cosine from which on two of them are near-duplicates."""

    values: Tensor
    likeness: float
    confirm: Callable[[Tensor, Tensor], Tensor] | None = None  # see `alike_pairs`


def sketches_of_run(config: Mapping[str, Any]) -> Sketches | None:
    """Sketches of a run's training samples, loaded as its flat configuration says.

    None where samples are packs of rows.

    Raises:
        InputError: the data cannot be loaded any more.
    """
    try:
        recipe = recipe_of(config)
        if isinstance(recipe, PromptRecipe) or (isinstance(recipe, TextRecipe) and recipe.packing):
            return None
        data: Any = load_kept(recipe)
    except (DataAgentError, TypeError) as error:
        raise InputError(
            f"{error} The data are needed to find near-duplicates; --no-duplicates leaves these "
            "out."
        ) from error
    if isinstance(recipe, TextRecipe):
        texts = token_pairs(data.samples["input_ids"])
        return Sketches(text_sketches(texts), TEXT_LIKENESS, partial(are_same_text, texts))
    small = small_images(data.train_images)
    return Sketches(image_sketches(small), IMAGE_LIKENESS, partial(are_same_picture, small))


def read_features(path: Path) -> Sketches:
    """Features that the user hands over: a NumPy file with a float array `[N, D]`.

    Raises:
        InputError: no such file, or not such an array.
    """
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as a NumPy array ({error}).") from error
    if values.ndim != 2 or values.dtype.kind != "f" or not np.isfinite(values).all():
        raise InputError(
            f"{path} holds {values.dtype} of shape {list(values.shape)}; expected finite floats "
            "[N, D], a row for each sample."
        )
    return Sketches(torch.from_numpy(values).float(), FEATURE_LIKENESS)
