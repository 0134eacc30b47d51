"""Encoded images to tensors of one size, decoded once and kept in a cache."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple, cast

import datasets
import numpy as np
import torch
from torch import Tensor

from data_agent.errors import CheckpointError, DataAgentError, InputError
from data_agent.runtime import checkpoint
from data_agent_lab.data.pixels import Canvas, decode, on_one_scale
from data_agent_lab.progress import Progress

logger = logging.getLogger(__name__)

_CHUNK = 256


class Part(NamedTuple):
    """Images of a split, still encoded (`{"bytes", "path"}`), and the rows in use."""

    name: str
    images: datasets.Dataset
    rows: Tensor


def cache_folder() -> Path:
    """Where decoded images are kept: `$DATA_AGENT_CACHE`, else `~/.cache/data-agent`."""
    return Path(os.environ.get("DATA_AGENT_CACHE") or "~/.cache/data-agent").expanduser()


def decoded(parts: Sequence[Part], canvas: Canvas, progress: Progress) -> Sequence[Tensor]:
    """uint8 `[n, C, height, width]` of each part, from the cache if it was decoded before.

    C is 1 if all images are grey, else 3.

    Raises:
        InputError: images that are damaged, all in one message, or more than the memory holds.
    """
    digest = hashlib.sha256(f"3 {canvas.name}".encode())
    for part in parts:
        digest.update(f" {part.images._fingerprint} ".encode())
        digest.update(part.rows.numpy().tobytes())
    path = cache_folder() / f"images-{digest.hexdigest()[:32]}.safetensors"
    if os.path.exists(path):  # False where the folder may not be read
        try:
            return checkpoint.load(path)["images"]
        except CheckpointError as error:
            logger.warning("decoding again: %s", error)
    images = _decode(parts, canvas, progress)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.save(path, {"images": images})
    except (OSError, DataAgentError) as error:
        _warn_once(f"decoded images are not kept, and decoded again by the next run: {error}")
    return images


@cache
def _warn_once(text: str) -> None:
    logger.warning("%s. DATA_AGENT_CACHE names another folder for them.", text.rstrip("."))


def _decode(parts: Sequence[Part], canvas: Canvas, progress: Progress) -> list[Tensor]:
    counts = [len(part.rows) for part in parts]
    total, done = sum(counts), 0
    pixels = _room_for(total, canvas)
    damaged: list[str] = []
    unscaled: dict[int, np.ndarray] = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for part, rows in ((p, rows) for p in parts for rows in p.rows.split(_CHUNK)):
            (cells,) = cast("dict[str, list[Any]]", part.images[rows.tolist()]).values()
            images = pool.map(_decode_cell, cells, repeat(canvas))
            for row, cell, found in zip(rows.tolist(), cells, images, strict=True):
                if isinstance(found, str):
                    place, path = f"row {row} of {part.name}", (cell or {}).get("path")
                    damaged.append(f"{f'{path} ({place})' if path else place}: {found}")
                elif found.ndim == 2:
                    unscaled[done] = found
                else:
                    pixels[done] = found.transpose(2, 0, 1)
                done += 1
            progress("decoding images", done, total)
    if damaged:
        raise InputError(
            f"{len(damaged)} of {total} images cannot be decoded. Remove or repair them:\n  "
            + "\n  ".join(damaged)
        )
    for place, grey in zip(unscaled, on_one_scale([*unscaled.values()]), strict=True):
        pixels[place] = grey
    # Grey or colour is decided by the pixels: files often hold grey images as red = green = blue.
    images = torch.from_numpy(pixels)
    if all(bool((chunk == chunk[:, :1]).all()) for chunk in images.split(_CHUNK)):
        images = images[:, :1].contiguous()
    return list(images.split(counts))


def _room_for(total: int, canvas: Canvas) -> np.ndarray:
    """Black pixels, uint8 `[total, 3, height, width]`, if the machine has the memory."""
    needed = total * 3 * canvas.height * canvas.width
    present = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > present:
        raise InputError(
            f"{total:,} images of {canvas.width} x {canvas.height} pixels need {needed / 1e9:.0f} "
            f"GB of memory, this machine has {present / 1e9:.0f}. Use a smaller --image-size or "
            "--subset."
        )
    return np.zeros((total, 3, canvas.height, canvas.width), dtype=np.uint8)


def _decode_cell(cell: Mapping[str, Any] | None, canvas: Canvas) -> np.ndarray | str:
    """Pixels, or what is wrong with the image."""
    try:
        return decode(cell, canvas)
    except Exception as error:  # decoders raise errors of many kinds
        return f"{error or type(error).__name__}"
