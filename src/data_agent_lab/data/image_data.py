"""Images and labels in memory, and what is done to them before training: subsets and noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data_agent.errors import InputError

DATA_SEED = 0  # of splits and subsets: the data of a recipe are the same in all of its runs
HELD_OUT_SHARE = 0.1
_NOISE_STREAM = 0x6E6F697365  # keeps a run's label noise apart from other uses of its seed


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ImageData:
    """A classification data set, decoded.

    Args:
        train_images: uint8 `[N, C, H, W]`, C is 1 (grey) or 3 (red, green, blue).
        train_labels: int64 `[N]` in [0, num_classes).
        eval_images: uint8 `[M, C, H, W]`.
        eval_labels: int64 `[M]`.
        class_names: one name a class, at least two.
        evaluation: where the evaluation samples come from, in words.
        clean_labels: int64 `[N]`, the training labels before any noise; None where they are
            `train_labels`.

    Raises:
        InputError: fewer than two classes, or no samples.
    """

    train_images: Tensor
    train_labels: Tensor
    eval_images: Tensor
    eval_labels: Tensor
    class_names: tuple[str, ...]
    evaluation: str
    clean_labels: Tensor | None = None

    def __post_init__(self) -> None:
        if self.num_classes < 2:
            raise InputError(
                f"the labels have {self.num_classes} class(es); classification needs two or more. "
                "Name the right column with --label-column."
            )
        if len(self.train_labels) == 0 or len(self.eval_labels) == 0:
            raise InputError(
                f"{len(self.train_labels)} training and {len(self.eval_labels)} evaluation samples "
                "are left; both must have some. Give more data, or a larger --subset."
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

    def num_noisy(self, labels: Tensor) -> int:
        """How many of the training labels `labels` (int64 `[N]`) are not the clean ones."""
        clean = self.train_labels if self.clean_labels is None else self.clean_labels
        return int((labels != clean).sum())


def channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel, of pixels scaled to [0, 1].

    Args:
        images: uint8 `[N, C, H, W]`.

    Returns:
        float32 `[C]` and `[C]`; a deviation is at least 1/255, so a black channel stays finite.
    """
    levels = torch.arange(256, dtype=torch.float64) / 255
    # Counting levels is exact and needs no copy of the images in floating point.
    counts = [torch.bincount(channel.flatten(), minlength=256) for channel in images.unbind(1)]
    shares = torch.stack([(count / count.sum()).double() for count in counts])
    mean = shares @ levels
    variance = (shares * (levels - mean[:, None]) ** 2).sum(1)
    return mean.float(), variance.clamp(min=0).sqrt().float().clamp(min=1 / 255)


def stratified(labels: Tensor, count: int, *, seed: int = DATA_SEED) -> Tensor:
    """Choose `count` samples, each class in proportion to its size (largest remainders).

    Args:
        labels: int64 `[N]`, 0 or more.
        count: samples to choose, in [1, N].
        seed: of the choice within each class.

    Returns:
        int64 `[count]`, distinct positions, ascending.

    Raises:
        InputError: `count` outside its range.
    """
    if not 1 <= count <= len(labels):
        raise InputError(f"{count} samples were asked for (--subset), of {len(labels)} there are.")
    sizes = np.bincount(labels.numpy())
    return draw_by_class(labels, largest_remainders(sizes, count), seed=seed)


def largest_remainders(shares: np.ndarray, count: int) -> np.ndarray:
    """Share out `count` in proportion to `shares` (`[C]`, 0 or more, not all 0).

    Returns:
        int64 `[C]` that add up to `count`, each part less than one from its exact size; of equal
        remainders the first are rounded up.
    """
    exact = count * shares / shares.sum()
    quota = np.floor(exact).astype(np.int64)
    by_remainder = np.argsort(quota - exact, kind="stable")
    quota[by_remainder[: count - quota.sum()]] += 1
    return quota


def draw_by_class(labels: Tensor, quota: np.ndarray, *, seed: int = DATA_SEED) -> Tensor:
    """Draw `quota[c]` samples of each class c, at most as many as it has: positions, ascending."""
    generator = np.random.default_rng(seed)
    chosen = [
        generator.permutation(np.flatnonzero(labels.numpy() == label))[:size]
        for label, size in enumerate(quota)
    ]
    return torch.from_numpy(np.sort(np.concatenate(chosen)))


def hold_out(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Split off 10 % of two samples or more, each class in proportion: to train, to evaluate on."""
    held = stratified(labels, max(1, math.floor(HELD_OUT_SHARE * len(labels) + 0.5)))
    is_held = torch.zeros(len(labels), dtype=torch.bool)
    is_held[held] = True
    return (~is_held).nonzero().squeeze(1), held


def corrupt_labels(labels: Tensor, share: float, *, num_classes: int, seed: int) -> Tensor:
    """Symmetric label noise: exactly `floor(share * N + 0.5)` labels become another class.

    Args:
        labels: int64 `[N]`.
        share: in [0, 1).
        num_classes: the wrong class is uniform over the `num_classes - 1` others.
        seed: of the choice of samples and classes.

    Returns:
        int64 `[N]`, a new tensor.
    """
    count = math.floor(share * len(labels) + 0.5)
    generator = np.random.default_rng([seed, _NOISE_STREAM])
    index = torch.from_numpy(generator.permutation(len(labels))[:count])
    shift = torch.from_numpy(generator.integers(1, num_classes, size=count))
    noisy = labels.clone()
    noisy[index] = (noisy[index] + shift) % num_classes
    return noisy
