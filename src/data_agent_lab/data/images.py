"""Loading a data set of images: splits, labels, decoding once, and a cache of what was decoded."""

from __future__ import annotations

import hashlib
import io
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from data_agent.runtime import checkpoint
from data_agent.errors import CheckpointError, InputError
from data_agent_lab.recipes import ImageRecipe
from data_agent_lab.data.image_data import ImageData, hold_out
from data_agent_lab.progress import Progress
from data_agent_lab.data.regimes import choose_rows, with_near_copies
from data_agent_lab.data.sources import EVAL_SPLITS, Split, open_splits, read_labels, read_split

logger = logging.getLogger(__name__)

_CHUNK = 256
_Part = tuple[Split, Tensor]  # a split and the rows of it that are used


def load_images(recipe: ImageRecipe, *, progress: Progress) -> ImageData:
    """Load a recipe's images with `datasets` and decode them into memory.

    Only the rows that the recipe uses are decoded, and cached; copies are made of them afterwards.

    Args:
        recipe: names the data (hub name `owner/name` or `owner/name:configuration`, parquet file,
            folder of parquet files, or image folder), its columns, size and regime. Images are
            scaled and their longer side is cropped.
        progress: told about the decoding.

    Raises:
        InputError: data that cannot be found, read or understood; see the message.
    """
    if recipe.data is None:
        raise InputError(
            f"the task {recipe.task} needs --data: the name of a data set on the Hugging Face hub, "
            "a parquet file, a folder of parquet files, or an image folder."
        )
    (split, rows), (eval_split, eval_rows), evaluation = _find_parts(recipe)
    names, values = _classes(split, eval_split)
    clean_labels = _numbered(split.labels, values, recipe.data)
    train_labels = clean_labels
    if recipe.train_labels is not None:
        other = read_labels(recipe.train_labels, num_rows=len(split.labels))
        train_labels = _numbered(other, values, recipe.train_labels)
    chosen, num_copies = choose_rows(clean_labels[rows], recipe)
    rows = rows[chosen]
    parts = [(split, rows), (eval_split, eval_rows)]
    train_images, eval_images = _decoded(parts, recipe.image_size, progress)
    data = ImageData(
        train_images=train_images,
        train_labels=train_labels[rows],
        eval_images=eval_images,
        eval_labels=_numbered(eval_split.labels, values, recipe.data)[eval_rows],
        class_names=names,
        evaluation=evaluation,
        clean_labels=clean_labels[rows],
    )
    return with_near_copies(data, num_copies)


def fit(image: Image.Image, size: int) -> Image.Image:
    """Scale to `size` x `size` pixels; of an oblong image the middle square."""
    if image.size == (size, size):
        return image
    return ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)


def cache_folder() -> Path:
    """Where decoded images are kept: `$DATA_AGENT_CACHE`, else `~/.cache/data-agent`."""
    named = os.environ.get("DATA_AGENT_CACHE")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "data-agent"


def _find_parts(recipe: ImageRecipe) -> tuple[_Part, _Part, str]:
    """What to train and evaluate on, and where the latter comes from in words."""
    assert recipe.data is not None
    splits = open_splits(recipe.data)
    if "train" not in splits:
        raise InputError(
            f"the data has no split 'train', but {', '.join(splits)}. Name the training file "
            "train.parquet, or its folder train."
        )

    def read(name: str) -> Split:
        return read_split(
            splits[name], image_column=recipe.image_column, label_column=recipe.label_column
        )

    train = read("train")
    if bool((train.labels < 0).any()):
        raise InputError(
            f"{int((train.labels < 0).sum())} of {len(train.labels)} training samples have no "
            "label. Remove them, or name another column with --label-column."
        )
    rows = torch.arange(len(train.labels))
    for name in (name for name in EVAL_SPLITS if name in splits):
        split = read(name)
        if bool((split.labels >= 0).all()):
            return (train, rows), (split, torch.arange(len(split.labels))), f"split {name!r}"
        logger.info("split %r has unlabelled samples; it is not used for evaluation.", name)
    if len(rows) < 2:
        raise InputError(f"the training data has {len(rows)} sample(s); two or more are needed.")
    kept, held = hold_out(train.labels)
    return (train, kept), (train, held), f"{len(held)} samples held out of 'train' (10 %)"


def _classes(train: Split, eval_: Split) -> tuple[tuple[str, ...], Tensor]:
    """Class names, and the label int64 `[C]` that the files have for each."""
    if train.class_names is not None:
        return train.class_names, torch.arange(len(train.class_names))
    values = torch.unique(torch.cat([train.labels, eval_.labels]))
    return tuple(str(int(value)) for value in values), values


def _numbered(labels: Tensor, values: Tensor, source: str) -> Tensor:
    """Labels as numbers of classes: int64 `[N]` in [0, C)."""
    numbers = torch.searchsorted(values, labels).clamp(max=len(values) - 1)
    strange = labels[values[numbers] != labels]
    if len(strange):
        raise InputError(
            f"{source} holds the label {int(strange[0])} ({len(strange)} such rows), which is no "
            f"class of the training data: its labels are {int(values[0])} to {int(values[-1])}."
        )
    return numbers


def _decoded(parts: Sequence[_Part], size: int, progress: Progress) -> list[Tensor]:
    """uint8 `[n, C, size, size]` of each part, from the cache if it was decoded before."""
    path = cache_folder() / f"images-{_cache_key(parts, size)}.safetensors"
    if path.exists():
        try:
            return checkpoint.load(path)["images"]
        except CheckpointError as error:
            logger.warning("decoding again: %s", error)
    _check_memory(sum(len(rows) for _, rows in parts), size)
    images = _decode(parts, size, progress)
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.save(path, {"images": images})
    return images


def _cache_key(parts: Sequence[_Part], size: int) -> str:
    digest = hashlib.sha256(f"1 {size}".encode())
    for split, rows in parts:
        digest.update(f" {split.rows._fingerprint} {split.column} ".encode())
        digest.update(rows.numpy().tobytes())
    return digest.hexdigest()[:32]


def _check_memory(num_images: int, size: int) -> None:
    needed = num_images * 3 * size * size
    present = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > present:
        raise InputError(
            f"{num_images:,} images of {size} x {size} pixels need {needed / 1e9:.0f} GB of "
            f"memory, this machine has {present / 1e9:.0f}. Use a smaller --image-size or --subset."
        )


def _decode(parts: Sequence[_Part], size: int, progress: Progress) -> list[Tensor]:
    total = sum(len(rows) for _, rows in parts)
    images: list[Tensor] = []
    done = 0
    is_grey = True
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for split, rows in parts:
            pixels = np.empty((len(rows), size, size, 3), dtype=np.uint8)
            start = 0
            for cells in _chunks(split, rows):
                chunk = pixels[start : start + len(cells)]
                names = (f"row {int(row)}" for row in rows[start : start + len(cells)])
                chunk[:] = list(pool.map(_decode_cell, cells, [size] * len(cells), names))
                is_grey = is_grey and bool((chunk == chunk[..., :1]).all())
                start += len(cells)
                done += len(cells)
                progress("decoding images", done, total)
            images.append(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    # Grey or colour is decided by the pixels: files often hold grey images as red = green = blue.
    return [part[:, :1].contiguous() if is_grey else part.contiguous() for part in images]


def _chunks(split: Split, rows: Tensor) -> Iterator[list[dict[str, Any]]]:
    for batch in split.rows.select(rows.tolist()).iter(batch_size=_CHUNK):
        yield batch[split.column]  # pyright: ignore[reportCallIssue, reportArgumentType]


def _decode_cell(cell: Mapping[str, Any] | None, size: int, name: str) -> np.ndarray:
    """uint8 `[size, size, 3]` of an encoded image."""
    try:
        if cell is None:
            raise ValueError("the cell is empty")
        source = io.BytesIO(cell["bytes"]) if cell["bytes"] is not None else cell["path"]
        with Image.open(source) as image:
            return np.asarray(fit(image.convert("RGB"), size))
    except (OSError, ValueError) as error:
        raise InputError(
            f"the image in {name} cannot be decoded: {error}. Remove the row, or repair it."
        ) from error
