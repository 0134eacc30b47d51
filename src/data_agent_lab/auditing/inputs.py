"""The samples that a run was trained on, from its own data, and sketches of them."""

from __future__ import annotations

import logging
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
from data_agent_lab.auditing.numbers import SampleNumbers
from data_agent_lab.configurations import recipe_of
from data_agent_lab.data.image_data import labels_of_run
from data_agent_lab.recipes import ImageRecipe, PromptRecipe, Recipe, TextRecipe
from data_agent_lab.runs.samples import SAMPLES
from data_agent_lab.tasks import kept, load_task

logger = logging.getLogger(__name__)


class Sketches(NamedTuple):
    """Float32 `[N, D]`, and the cosine from which on two of them are near-duplicates."""

    values: Tensor
    likeness: float
    confirm: Callable[[Tensor, Tensor], Tensor] | None = None  # see `alike_pairs`


def data_of_run(
    config: Mapping[str, Any], numbers: SampleNumbers, *, is_needed: bool = True
) -> Any | None:
    """The training samples of a run, as its flat configuration says; None of prompts.

    Args:
        config: of the run.
        numbers: of its samples.
        is_needed: else None stands for data that cannot be loaded any more.

    Raises:
        InputError: the data cannot be loaded any more, or have other labels than in the training.
    """
    try:
        recipe = recipe_of(config)
        if isinstance(recipe, PromptRecipe):
            return None
        every: Any = load_task(recipe)
        data = kept(recipe, every)
    except (DataAgentError, TypeError) as error:
        if not is_needed:
            logger.info("the page comes without pictures of samples: %s", error)
            return None
        raise InputError(
            f"{error} The data are needed to find near-duplicates; --no-duplicates leaves these "
            "out."
        ) from error
    if data.num_train == len(numbers):
        _check_labels(recipe, config["seed"], every, numbers)
    return data


def _check_labels(recipe: Recipe, seed: int, data: Any, numbers: SampleNumbers) -> None:
    """Refuse data whose labels are not those that the numbers are of."""
    if numbers.label is None:
        return
    if isinstance(recipe, ImageRecipe):
        labels = labels_of_run(data, recipe, seed=seed).numpy()
    elif isinstance(recipe, TextRecipe) and data.class_names:
        labels = data.labels_of_run(recipe, seed=seed).numpy()
    else:
        return
    rows = np.flatnonzero(numbers.label >= 0)
    index = numbers.index[rows]
    is_other = index >= len(labels)
    is_other |= labels[np.minimum(index, len(labels) - 1)] != numbers.label[rows]
    if is_other.any():
        raise InputError(
            f"{int(is_other.sum()):,} of {len(rows):,} samples have another label in the data than "
            "they had in the training: rows were changed, moved or shuffled since, and the audit "
            "would show wrong ones. Put the data back as they were, or train again. Without the "
            f"data, {SAMPLES} in the run's folder can be audited."
        )


def sketches_of(config: Mapping[str, Any], data: Any) -> Sketches | None:
    """Sketches of a run's training samples; None where samples are packs of rows, or prompts."""
    if data is None or config.get("packing"):
        return None
    if hasattr(data, "samples"):
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
