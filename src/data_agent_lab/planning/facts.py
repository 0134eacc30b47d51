"""What is known of a task's data before any training."""

from __future__ import annotations

from typing import Any

import numpy as np

from data_agent_lab.data.image_data import trusted_of
from data_agent_lab.planning.advice import Facts, skew_of
from data_agent_lab.recipes import ImageRecipe, Recipe, TextRecipe


def facts_of(data: Any) -> Facts:
    """The facts of loaded samples; where none has a label there is nothing to say."""
    if not data.class_names or hasattr(data, "train_objects"):  # an image with boxes has no class
        return Facts(num_classes=0, skew=0.0)
    is_image = hasattr(data, "train_labels")
    labels = data.train_labels.numpy() if is_image else np.asarray(data.train["labels"])
    counts = np.bincount(labels[labels >= 0], minlength=len(data.class_names))
    return Facts(num_classes=len(data.class_names), skew=skew_of(counts.tolist()))


def num_trusted_of(data: Any, recipe: Recipe) -> int:
    """How many of the loaded training samples a run of the recipe trusts.

    Raises:
        InputError: there are not so many to trust.
    """
    if isinstance(recipe, TextRecipe):
        return data.num_trusted
    rows = trusted_of(data, recipe) if isinstance(recipe, ImageRecipe) else data.trusted(recipe)
    return 0 if rows is None else len(rows)
