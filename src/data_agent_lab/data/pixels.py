"""From encoded images to pixels, as people see the picture."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageOps

logger = logging.getLogger(__name__)

_DEEP_GREY = ("PNG", "PPM")  # formats of which older Pillows call 16 bits "I"
_ALPHA = ("RGBA", "LA", "PA", "La", "RGBa")
# A PNG's transparent colour has the file's levels, which its pixels as decoded have not.
_FROM_FILE = {"L;2": 85, "L;4": 17, "RGB;16B": 1 / 256}


@dataclass(frozen=True, slots=True)
class Canvas:
    """What images are brought to: a size in pixels, and how they are laid on it."""

    width: int
    height: int
    shows_all: bool = False
    """The whole image lies in the upper left corner, with black beside it; else its middle fills
    the canvas."""

    @property
    def name(self) -> str:
        """Tells it from others in the names of files."""
        return f"{self.width}x{self.height} all" if self.shows_all else f"{self.width}"

    def place(self, image: Image.Image) -> Image.Image:
        """Scale an image, its sides in proportion, and lay it on the canvas."""
        size, method = (self.width, self.height), Image.Resampling.BILINEAR
        if self.shows_all:
            return ImageOps.pad(image, size, method, centering=(0, 0))
        return ImageOps.fit(image, size, method)


def decode(cell: Mapping[str, Any] | None, canvas: Canvas) -> np.ndarray:
    """uint8 `[H, W, 3]` of an encoded image (`{"bytes", "path"}`) on a canvas of that size.

    Of several frames it is the first.

    A photo is turned upright as its EXIF data say, what is transparent shows a white background,
    and 16 bits are brought to 8. Grey levels of 32 bits, or in floating point, have no black and
    white of their own: of them float32 `[H, W]`, for `on_one_scale`.

    Raises:
        Exception: the image is damaged. Decoders raise errors of many kinds.
    """
    if cell is None or (cell["bytes"] is None and cell["path"] is None):
        raise ValueError("the cell is empty")
    source = io.BytesIO(cell["bytes"]) if cell["bytes"] is not None else cell["path"]
    with Image.open(source) as image:
        mode = "I;16" if image.mode == "I" and image.format in _DEEP_GREY else image.mode[:4]
        scale = _FROM_FILE.get(str(image.tile[0][3])) if image.tile else None
        try:
            upright = ImageOps.exif_transpose(image)
        except Exception:  # of broken EXIF data; broken pixels raise again
            upright = image.copy()
    if mode in ("I", "F"):
        upright = Image.fromarray(_finite(np.asarray(upright, dtype=np.float32)))
        return np.asarray(canvas.place(upright))
    key = upright.info.get("transparency")
    if mode == "I;16":
        deep = np.asarray(upright)
        grey = np.where(deep == key, 255, np.rint(deep / 257)).astype(np.uint8)
        upright = Image.fromarray(grey)
    elif key is not None and scale is not None:
        levels = [int(level * scale) for level in np.atleast_1d(key)]
        upright.info["transparency"] = tuple(levels) if len(levels) > 1 else levels[0]
    if upright.mode in _ALPHA or "transparency" in upright.info:
        colours = upright.convert("RGBA")
        white = Image.new("RGBA", colours.size, (255, 255, 255, 255))
        upright = Image.alpha_composite(white, colours)
    return np.asarray(canvas.place(upright.convert("RGB")))


def on_one_scale(images: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    """uint8 `[H, W]` of each: the smallest value in any is black, the largest white."""
    if not images:
        return
    low = min(float(image.min()) for image in images)
    high = max(float(image.max()) for image in images)
    logger.info("%d images of 32 bits a pixel: %g is black, %g is white.", len(images), low, high)
    for image in images:
        yield np.rint(255 * (image.astype(np.float64) - low) / (high - low or 1.0)).astype(np.uint8)


def _finite(values: np.ndarray) -> np.ndarray:
    """What is no number becomes the smallest of the others, what is infinite the nearest."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        raise ValueError("no pixel is a number")
    low, high = finite.min(), finite.max()
    return np.nan_to_num(values, nan=low, posinf=high, neginf=low)
