"""Data regimes: long tails and near-duplicates, the same for every run of a recipe.

Which rows of the training data are used is decided from their clean labels before any image is
decoded (`choose_rows`); copies are made of decoded images (`with_near_copies`). Everything is a
function of its arguments and `DATA_SEED`.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from data_agent.errors import InputError
from data_agent_lab.data.image_data import (
    DATA_SEED,
    ImageData,
    draw_by_class,
    largest_remainders,
    stratified,
)
from data_agent_lab.recipes import ImageRecipe

POOL_SHARE = 0.05  # of all training samples: how many of them are copied
MAX_SHIFT = 1  # pixels
BRIGHTNESS = 0.05  # a copy is darker or brighter by up to this share
NOISE_LEVELS = 2.0  # standard deviation of a copy's pixel noise, in grey levels of 255
_COPIES_STREAM = 0x636F70696573  # keeps the draws of copies apart from those of subsets
_CHUNK = 4096


def choose_rows(labels: Tensor, recipe: ImageRecipe) -> tuple[Tensor, int]:
    """The training rows to decode, and how many near-copies are made of them afterwards.

    Together they are the recipe's subset or long tail; without either, as many samples as there
    are rows.

    Args:
        labels: int64 `[N]` in [0, C), the clean labels of all training rows.
        recipe: names `subset`, `imbalance` and `duplicates`.

    Returns:
        int64, distinct rows, ascending, each class in proportion; and the number of copies.

    Raises:
        InputError: more samples are asked for than there are.
    """
    rows = torch.arange(len(labels))
    if recipe.imbalance is not None:
        rows = long_tail(labels, recipe.imbalance, count=recipe.subset)
    elif recipe.subset is not None:
        rows = stratified(labels, recipe.subset)
    num_copies = math.floor(recipe.duplicates * len(rows) + 0.5)
    if num_copies == 0:
        return rows, 0
    return rows[stratified(labels[rows], len(rows) - num_copies)], num_copies


def long_tail(labels: Tensor, imbalance: float, *, count: int | None) -> Tensor:
    """Choose rows so that class c of C has a size proportional to `imbalance^(-c / (C - 1))`.

    Args:
        labels: int64 `[N]` in [0, C), C at least 2.
        imbalance: size of the first class over that of the last, 1 or more.
        count: rows to choose (largest remainders); None takes as many as the classes have.

    Returns:
        int64 `[count]`, distinct rows, ascending.

    Raises:
        InputError: a class has fewer rows than its part, or its part is less than one.
    """
    sizes = np.bincount(labels.numpy())
    weights = imbalance ** (-np.arange(len(sizes)) / max(1, len(sizes) - 1))
    largest = float((sizes / weights).min())  # of the first class, so that every class has enough
    if count is None:
        quota = np.floor(largest * weights + 1e-9).astype(np.int64)
    else:
        quota = largest_remainders(weights, count)
    short = np.flatnonzero(quota > sizes)
    if len(short):
        raise InputError(
            f"--imbalance {imbalance} and --subset {count} ask for {quota[short[0]]} samples of "
            f"class {short[0]}, which has {sizes[short[0]]}. Use a --subset of at most "
            f"{int(largest * weights.sum())}."
        )
    if not quota.all():
        raise InputError(
            f"--imbalance {imbalance} leaves class {int(np.argmin(quota))} without a sample. Use a "
            "smaller one, or a larger --subset."
        )
    return draw_by_class(labels, quota)


def with_near_copies(data: ImageData, num_copies: int) -> ImageData:
    """Add near-copies of a few training samples, and shuffle all of them.

    The copies are made of a random pool, 5 % of the new number of training samples, each of its
    samples as often as any other, give or take one. A copy is shifted by up to a pixel in each
    direction (the edge is repeated), its brightness scaled by a factor in [0.95, 1.05], and noise
    of two grey levels added; it keeps its original's label.

    Args:
        data: with the originals only.
        num_copies: copies to add; 0 leaves the data as they are.
    """
    if num_copies == 0:
        return data
    num_originals = len(data.train_labels)
    generator = np.random.default_rng([DATA_SEED, _COPIES_STREAM])
    pool_size = math.floor(POOL_SHARE * (num_originals + num_copies) + 0.5)
    pool = generator.permutation(num_originals)[: max(1, pool_size)]
    sources = torch.from_numpy(np.resize(pool, num_copies))
    copies = [_near_copies(data.train_images[s], generator) for s in sources.split(_CHUNK)]
    order = torch.from_numpy(generator.permutation(num_originals + num_copies))
    origins = torch.cat([torch.arange(num_originals), sources])[order]
    clean = data.clean_labels
    return replace(
        data,
        train_images=torch.cat([data.train_images, *copies])[order],
        train_labels=data.train_labels[origins],
        clean_labels=None if clean is None else clean[origins],
    )


def _near_copies(images: Tensor, generator: np.random.Generator) -> Tensor:
    """uint8 `[B, C, H, W]`: each image shifted, brighter or darker, and noisy."""
    size, _, height, width = images.shape
    down, right = torch.from_numpy(generator.integers(-MAX_SHIFT, MAX_SHIFT + 1, size=(2, size)))
    # Clamping positions to the image repeats its edge.
    rows = (torch.arange(height) + down[:, None]).clamp(0, height - 1)
    columns = (torch.arange(width) + right[:, None]).clamp(0, width - 1)
    sample = torch.arange(size)[:, None, None]
    # Indexing dims 0, 2, 3 around a slice puts the indexed dims first: [B, H, W, C].
    shifted = images[sample, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    factor = generator.uniform(1 - BRIGHTNESS, 1 + BRIGHTNESS, size=(size, 1, 1, 1))
    noise = NOISE_LEVELS * generator.standard_normal(tuple(shifted.shape), dtype=np.float32)
    changed = shifted * torch.from_numpy(factor).float() + torch.from_numpy(noise)
    return changed.round().clamp(0, 255).to(torch.uint8)
