"""Images and labels in memory, and their regimes: subsets, long tails, near-copies, wrong labels.

The data of a recipe are the same in all of its runs; only the wrong labels follow a run's seed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from data_agent.errors import InputError
from data_agent.trusted import warn_of_overlap
from data_agent_lab.data.origins import followed
from data_agent_lab.recipes import ImageRecipe

DATA_SEED = 0  # of splits, subsets and copies
HELD_OUT_SHARE = 0.1
_NOISE_STREAM = 0x6E6F697365  # keeps a run's label noise apart from other uses of its seed

POOL_SHARE = 0.05  # of all training samples: how many of them are copied
MAX_SHIFT = 1  # pixels
BRIGHTNESS = 0.05  # a copy is darker or brighter by up to this share
NOISE_LEVELS = 2.0  # standard deviation of a copy's pixel noise, in grey levels of 255
_COPIES_STREAM = 0x636F70696573  # keeps the draws of copies apart from those of subsets
NO_CLASS = -1  # the true label of a foreign image
_FOREIGN_STREAM = 0x666F726569676E
_CHUNK = 4096


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ImageData:
    """A classification data set, decoded.

    Raises:
        InputError: fewer than two classes, or no samples.
    """

    train_images: Tensor  # uint8 [N, C, H, W], C is 1 (grey) or 3 (red, green, blue)
    train_labels: Tensor  # int64 [N] in [0, num_classes)
    eval_images: Tensor  # uint8 [M, C, H, W]
    eval_labels: Tensor  # int64 [M]
    class_names: tuple[str, ...]  # at least two
    evaluation: str  # where the evaluation samples come from, in words
    clean_labels: Tensor | None = None  # int64 [N], true or NO_CLASS; None: the training labels
    num_trusted: int = 0  # the last training samples are trusted ones of a data set of their own
    rows: Tensor | None = None  # int64 [N], of the training data, or NO_ROW; None if not known
    files: Sequence[str] = ()  # the image file of each row; empty where images lie in tables

    def __post_init__(self) -> None:
        if self.num_classes < 2:
            raise InputError(
                f"the labels have {self.num_classes} class(es); classification needs two or more. "
                "Name the right column with --label-column."
            )
        if self.num_train == 0 or self.num_eval == 0:
            raise InputError(
                f"{self.num_train} training and {self.num_eval} evaluation samples are left; both "
                "must have some. Give more data, or a larger --subset."
            )

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def num_train(self) -> int:
        """Number of training samples."""
        return len(self.train_labels)

    @property
    def num_eval(self) -> int:
        """Number of evaluation samples."""
        return len(self.eval_labels)

    def in_words(self) -> str:
        """What there is."""
        return (
            f"{self.num_train} training samples of {self.num_classes} classes; evaluation on "
            f"{self.num_eval} ({self.evaluation})"
        )

    @property
    def true_labels(self) -> Tensor:
        """int64 `[N]`: before any noise where that is known, negative of foreign samples."""
        return self.train_labels if self.clean_labels is None else self.clean_labels

    def at(self, rows: Any) -> ImageData:
        """The data with these training samples, int64 `[M]` ascending, and the trusted ones."""
        clean, last = self.clean_labels, self.num_train - self.num_trusted
        rows = torch.as_tensor(rows)
        rows = torch.cat([rows[rows < last], torch.arange(last, self.num_train)])
        return replace(
            self,
            train_images=self.train_images[rows],
            train_labels=self.train_labels[rows],
            clean_labels=None if clean is None else clean[rows],
            rows=None if self.rows is None else self.rows[rows],
        )

    def num_noisy(self, labels: Tensor) -> int:
        """How many of the training labels `labels` (int64 `[N]`) are not the clean ones."""
        return int((labels != self.true_labels).sum())


def channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel, float32 `[C]`, of pixels scaled to [0, 1].

    Images are uint8 `[N, C, H, W]`. A deviation is at least 1/255: a black channel stays finite.
    """
    levels = torch.arange(256, dtype=torch.float64) / 255
    # Counting levels is exact and needs no copy of the images in floating point.
    counts = [torch.bincount(channel.flatten(), minlength=256) for channel in images.unbind(1)]
    shares = torch.stack([(count / count.sum()).double() for count in counts])
    mean = shares @ levels
    variance = (shares * (levels - mean[:, None]) ** 2).sum(1)
    return mean.float(), variance.clamp(min=0).sqrt().float().clamp(min=1 / 255)


def choose_rows(labels: Tensor, recipe: ImageRecipe) -> tuple[Tensor, int]:
    """The training rows to decode (int64, distinct, ascending), and how many copies to add.

    Together, and with the foreign images, they are the recipe's subset or long tail; without
    either, as many samples as there are rows. `labels`, int64 `[N]`, are the clean ones of all
    training rows.

    Raises:
        InputError: more samples are asked for than there are.
    """
    rows = torch.arange(len(labels))
    if recipe.imbalance is not None:
        rows = long_tail(labels, recipe.imbalance, count=recipe.subset)
    elif recipe.subset is not None:
        rows = stratified(labels, recipe.subset)
    if num_foreign := math.floor(recipe.foreign_share * len(rows) + 0.5):
        rows = rows[stratified(labels[rows], len(rows) - num_foreign)]
    num_copies = math.floor(recipe.duplicates * len(rows) + 0.5)
    if num_copies > 0:
        rows = rows[stratified(labels[rows], len(rows) - num_copies)]
    return rows, num_copies


def stratified(labels: Tensor, count: int) -> Tensor:
    """Choose `count` of N samples, each class in proportion to its size (largest remainders).

    `labels` are int64 `[N]`, 0 or more. Returns distinct positions, ascending, int64 `[count]`.

    Raises:
        InputError: `count` is not in [1, N].
    """
    if not 1 <= count <= len(labels):
        raise InputError(f"{count} samples were asked for (--subset), of {len(labels)} there are.")
    return _drawn(labels, _quota(np.bincount(labels.numpy()), count))


def hold_out(labels: Tensor, count: int | None = None) -> tuple[Tensor, Tensor]:
    """Split off `count` samples (10 % of all), each class in proportion: the others, and these."""
    if count is None:
        count = max(1, math.floor(HELD_OUT_SHARE * len(labels) + 0.5))
    held = stratified(labels, count)
    return torch.from_numpy(np.setdiff1d(np.arange(len(labels)), held.numpy())), held


def long_tail(labels: Tensor, imbalance: float, *, count: int | None) -> Tensor:
    """Choose rows so that class c of C has a size proportional to `imbalance^(-c / (C - 1))`.

    `labels` are int64 `[N]` in [0, C), `imbalance` is 1 or more. Returns distinct rows, ascending,
    int64 `[count]`; None takes as many as the classes have.

    Raises:
        InputError: a class has fewer rows than its part, or its part is less than one.
    """
    sizes = np.bincount(labels.numpy())
    weights = _tail(len(sizes), imbalance)
    largest = float((sizes / weights).min())  # of the first class, so that every class has enough
    if count is None:
        quota = np.floor(largest * weights + 1e-9).astype(np.int64)
    else:
        quota = _quota(weights, count)
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
    return _drawn(labels, quota)


def _tail(num_classes: int, imbalance: float) -> np.ndarray:
    """Sizes of classes that fall exponentially, in proportion: of the first it is 1."""
    return imbalance ** (-np.arange(num_classes) / max(1, num_classes - 1))


def _quota(shares: np.ndarray, count: int) -> np.ndarray:
    """Share out `count` in proportion to `shares`: largest remainders, the first of equal ones."""
    exact = count * shares / shares.sum()
    quota = np.floor(exact).astype(np.int64)
    by_remainder = np.argsort(quota - exact, kind="stable")
    quota[by_remainder[: count - quota.sum()]] += 1
    return quota


def _drawn(labels: Tensor, quota: np.ndarray) -> Tensor:
    """Draw `quota[c]` samples of each class c, at most as many as it has: positions, ascending."""
    generator = np.random.default_rng(DATA_SEED)
    chosen = [
        generator.permutation(np.flatnonzero(labels.numpy() == label))[:size]
        for label, size in enumerate(quota)
    ]
    return torch.from_numpy(np.sort(np.concatenate(chosen)))


def trusted_rows(labels: Tensor, count: int, imbalance: float | None = None) -> Tensor:
    """Choose `count` samples to trust: int64 `[count]`, positions, ascending.

    Args:
        labels: int64 `[N]`, true labels; a foreign sample, which has none, is never chosen.
        count: in [1, N]; of a class at most half of its samples are taken.
        imbalance: how many times more the first class has than the last; None takes each alike.

    Raises:
        InputError: the classes do not have so many.
    """
    most = torch.from_numpy(np.bincount(labels[labels >= 0].numpy()) // 2)
    if count > int(most.sum()):
        raise InputError(
            f"--trusted-rows is {count}; half of each class is {int(most.sum())} samples in all. "
            "Trust fewer, a few hundred are enough."
        )
    if imbalance is not None:
        tail = _quota(_tail(len(most), imbalance), count)
        if (short := tail > most.numpy()).any():
            raise InputError(
                f"--trusted-imbalance {imbalance} and --trusted-rows {count} ask for "
                f"{tail[short][0]} samples of a class of which half is {most.numpy()[short][0]}. "
                "Trust fewer, or more alike."
            )
        return _drawn(labels, tail)
    quota = torch.zeros_like(most)
    while (left := count - int(quota.sum())) > 0:  # small classes give all they can
        is_open = quota < most
        each, rest = divmod(left, int(is_open.sum()))
        more = is_open * (each + (is_open.cumsum(0) <= rest).long())
        quota = torch.minimum(quota + more, most)
    return _drawn(labels, quota.numpy())


def trusted_of(data: ImageData, recipe: ImageRecipe) -> Tensor | None:
    """Which training samples are trusted, by the recipe: int64 `[T]`, positions; None for none."""
    if data.num_trusted:
        return torch.arange(data.num_train - data.num_trusted, data.num_train)
    if not recipe.trusted_rows:
        return None
    return trusted_rows(data.true_labels, recipe.trusted_rows, recipe.trusted_imbalance)


def labels_of_run(data: ImageData, recipe: ImageRecipe, *, seed: int) -> Tensor:
    """int64 `[N]`: the labels that a run trains on, its own wrong ones among them."""
    labels = corrupt_labels(
        data.train_labels, recipe.label_noise, num_classes=data.num_classes, seed=seed
    )
    trusted = trusted_of(data, recipe)
    if trusted is not None:
        labels[trusted] = corrupt_labels(
            data.true_labels[trusted],
            recipe.trusted_noise,
            num_classes=data.num_classes,
            seed=seed,
        )
    return labels


def with_trusted(data: ImageData, images: Tensor, labels: Tensor) -> ImageData:
    """Add trusted samples behind the training samples; a warning tells if they are evaluated on.

    `images` are uint8 `[T, C, H, W]` as the data's own, `labels` int64 `[T]`, which are true.
    """
    warn_of_overlap(
        TensorDataset(images, labels), TensorDataset(data.eval_images, data.eval_labels)
    )
    return replace(
        data,
        train_images=torch.cat([data.train_images, images]),
        train_labels=torch.cat([data.train_labels, labels]),
        clean_labels=torch.cat([data.true_labels, labels]),
        num_trusted=len(labels),
        rows=followed(data.rows, len(labels)),
    )


def with_near_copies(data: ImageData, num_copies: int) -> ImageData:
    """Add near-copies of a few training samples, and shuffle all of them; 0 changes nothing.

    The copies are made of a random pool, 5 % of the new number of training samples, each of its
    samples as often as any other, give or take one. A copy is shifted by up to a pixel in each
    direction (the edge is repeated), its brightness scaled by a factor in [0.95, 1.05], and noise
    of two grey levels added; it keeps its original's label.
    """
    if num_copies == 0:
        return data
    total = data.num_train + num_copies
    generator = np.random.default_rng([DATA_SEED, _COPIES_STREAM])
    pool_size = max(1, math.floor(POOL_SHARE * total + 0.5))
    pool = generator.permutation(data.num_train)[:pool_size]
    sources = torch.from_numpy(np.resize(pool, num_copies))
    copies = [_near_copies(data.train_images[s], generator) for s in sources.split(_CHUNK)]
    order = torch.from_numpy(generator.permutation(total))
    origins = torch.cat([torch.arange(data.num_train), sources])[order]
    clean, rows = data.clean_labels, followed(data.rows, num_copies)
    return replace(
        data,
        train_images=torch.cat([data.train_images, *copies])[order],
        train_labels=data.train_labels[origins],
        clean_labels=None if clean is None else clean[origins],
        rows=None if rows is None else rows[order],
    )


def num_foreign(share: float, num_own: int) -> int:
    """How many foreign samples make up a share of all, beside so many of the data's own."""
    return math.floor(share / (1 - share) * num_own + 0.5)


def with_foreign(data: ImageData, images: Tensor) -> ImageData:
    """Mix other images in, under labels drawn uniformly, and shuffle all.

    `images` are uint8 `[F, C, H, W]` as the data's own. Their true label is `NO_CLASS`.
    """
    generator = np.random.default_rng([DATA_SEED, _FOREIGN_STREAM])
    drawn = torch.from_numpy(generator.integers(data.num_classes, size=len(images)))
    order = torch.from_numpy(generator.permutation(data.num_train + len(images)))
    clean, rows = data.true_labels, followed(data.rows, len(images))
    return replace(
        data,
        train_images=torch.cat([data.train_images, images])[order],
        train_labels=torch.cat([data.train_labels, drawn])[order],
        clean_labels=torch.cat([clean, torch.full((len(images),), NO_CLASS)])[order],
        rows=None if rows is None else rows[order],
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


def corrupt_labels(labels: Tensor, share: float, *, num_classes: int, seed: int) -> Tensor:
    """Symmetric label noise: exactly `floor(share * N + 0.5)` labels become another class.

    The wrong class is uniform over the others. `labels` are int64 `[N]`, `share` is in [0, 1);
    returns a new tensor.
    """
    count = math.floor(share * len(labels) + 0.5)
    generator = np.random.default_rng([seed, _NOISE_STREAM])
    index = torch.from_numpy(generator.permutation(len(labels))[:count])
    shift = torch.from_numpy(generator.integers(1, num_classes, size=count))
    noisy = labels.clone()
    noisy[index] = (noisy[index] + shift) % num_classes
    return noisy
