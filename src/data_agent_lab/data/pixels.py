"""From encoded images to pixels, as people see the picture."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image, ImageOps

_DEEP_GREY = ("PNG", "PPM")  # formats of which older Pillows call 16 bits "I"
# By mode, the ranges that grey levels may be stored in: 0 to one of these.
_RANGES = {"I;16": (65535,), "I": (255, 65535), "F": (1, 255, 65535)}
_ALPHA = ("RGBA", "LA", "PA", "La", "RGBa")


def decode(cell: Mapping[str, Any] | None, size: int) -> np.ndarray:
    """uint8 `[size, size, 3]` of an encoded image (`{"bytes", "path"}`); the first of its frames.

    A photo is turned upright as its EXIF data say, what is transparent shows a white background,
    and deep pixels are brought to 8 bits (`_shallow`).

    Raises:
        Exception: the image is damaged. Decoders raise errors of many kinds.
    """
    if cell is None or (cell["bytes"] is None and cell["path"] is None):
        raise ValueError("the cell is empty")
    source = io.BytesIO(cell["bytes"]) if cell["bytes"] is not None else cell["path"]
    with Image.open(source) as image:
        mode = "I;16" if image.mode == "I" and image.format in _DEEP_GREY else image.mode[:4]
        try:
            upright = ImageOps.exif_transpose(image)
        except Exception:  # of broken EXIF data; broken pixels raise again
            upright = image.copy()
    if mode in _RANGES:
        upright = Image.fromarray(_shallow(np.asarray(upright), _RANGES[mode]))
    if upright.mode in _ALPHA or "transparency" in upright.info:
        colours = upright.convert("RGBA")
        white = Image.new("RGBA", colours.size, (255, 255, 255, 255))
        upright = Image.alpha_composite(white, colours)
    return np.asarray(fit(upright.convert("RGB"), size))


def fit(image: Image.Image, size: int) -> Image.Image:
    """Scale to `size` x `size` pixels; of an oblong image the middle square."""
    return ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)


def _shallow(values: np.ndarray, tops: tuple[int, ...]) -> np.ndarray:
    """Grey levels in 8 bits, uint8 `[H, W]`, of 16 bits, 32 bits or floating point.

    0 to the smallest of `tops` that holds all values is mapped to 0 to 255, or else the range from
    the image's smallest to its largest value. Values that are no numbers are black.
    """
    values = values.astype(np.float64)
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    top = next((top for top in tops if low >= 0 and high <= top), None)
    if top is not None:
        low, high = 0.0, float(top)
    scaled = (np.nan_to_num(values, nan=low, posinf=high, neginf=low) - low) / (high - low or 1.0)
    return np.rint(255 * scaled).astype(np.uint8)
