"""From encoded images to pixels, as people see the picture."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageOps

_DEEP = 65535  # the largest value of 16 bits
_DEEP_GREY = ("PNG", "PPM")  # formats of which older Pillows call 16 bits "I"
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
        is_deep = image.mode.startswith("I;16") or (
            image.mode == "I" and image.format in _DEEP_GREY
        )
        try:
            upright = ImageOps.exif_transpose(image)
        except Exception:  # of broken EXIF data; broken pixels raise again
            upright = image.copy()
    return np.asarray(fit(_as_rgb(upright, is_deep=is_deep), size))


def fit(image: Image.Image, size: int) -> Image.Image:
    """Scale to `size` x `size` pixels; of an oblong image the middle square."""
    if image.size == (size, size):
        return image
    return ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)


def _as_rgb(image: Image.Image, *, is_deep: bool) -> Image.Image:
    if is_deep or image.mode in ("I", "F"):
        tops = (_DEEP,) if is_deep else (255, _DEEP) if image.mode == "I" else (1, 255, _DEEP)
        image = Image.fromarray(_shallow(np.asarray(image), tops))
    if image.mode in _ALPHA or "transparency" in image.info:
        colours = image.convert("RGBA")
        white = Image.new("RGBA", colours.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, colours).convert("RGB")
    return image.convert("RGB")


def _shallow(values: np.ndarray, tops: Sequence[int]) -> np.ndarray:
    """Grey levels in 8 bits, uint8 `[H, W]`, of 16 bits, 32 bits or floating point.

    The range that the values are stored in is mapped to 0 to 255: of 16 bits 0 to 65535; of others
    the smallest of 0 to 1 (floating point only), 0 to 255 and 0 to 65535 that holds all values of
    the image, else from its smallest to its largest value. Values that are no numbers are black.
    """
    values = values.astype(np.float64)
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    top = next((top for top in tops if low >= 0 and high <= top), None)
    if top is not None:
        low, high = 0.0, float(top)
    scaled = (np.nan_to_num(values, nan=low, posinf=high, neginf=low) - low) / (high - low or 1.0)
    return np.rint(255 * scaled).astype(np.uint8)
