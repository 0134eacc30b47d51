"""Pixels as people see the picture: deep ones, photos on their side, what is transparent."""

from __future__ import annotations

import io
import logging
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps
from small_images import encoded, load

from data_agent import DataAgentError
from data_agent_lab.data.pixels import Canvas, decode


def test_deep_pixels_keep_their_brightness() -> None:
    rng = np.random.default_rng(0)
    deep = rng.integers(0, 65536, (16, 16), dtype=np.uint16)
    found = decode(encoded(Image.fromarray(deep)), Canvas(16, 16))
    assert found.shape == (16, 16, 3)
    assert np.abs(found[..., 0].astype(int) - deep / 257).max() <= 0.5
    dark = np.full((16, 16), 257 * 3, dtype=np.uint16)
    for kind in ("PNG", "PPM", "TIFF"):
        assert decode(encoded(Image.fromarray(dark), kind), Canvas(16, 16)).max() == 3


def floats_in(folder: Path, *images: Any, kind: Any = np.float32) -> list[list[int]]:
    """The grey levels that values get which are rows of images of one data set."""
    for number, values in enumerate(images):
        for name in ("train/a", "train/b", "test/a"):
            (folder / name).mkdir(parents=True, exist_ok=True)
            image = Image.fromarray(np.tile(np.array(values, dtype=kind), (9, 3)))
            image.save(folder / name / f"{number}.tif")
    data = load(folder, image_size=9)
    rows = data.eval_images[:, 0, 0].tolist()
    assert data.train_images[:, 0, 8].tolist() == rows * 2
    assert [row[:3] for row in rows] == [row[6:] for row in rows]
    return [row[:3] for row in rows]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 100.0, 255.0], [0, 100, 255]),
        ([0.0, 257.0, 65535.0], [0, 1, 255]),
        ([-1.0, 0.0, 1.0], [0, 128, 255]),
        ([1e6, 2e6, 3e6], [0, 128, 255]),
        ([float("nan"), 0.0, 1.0], [0, 0, 255]),
        ([float("-inf"), 1.0, float("inf")], [0, 0, 0]),
        ([-3e38, 0.0, 3e38], [0, 128, 255]),
        ([0, 100, 255], [0, 100, 255]),
        ([0, 257, 65535], [0, 1, 255]),
        ([-100, 0, 100], [0, 128, 255]),
    ],
)
def test_values_of_other_types_are_scaled_by_their_range(
    tmp_path: Path, values: list[Any], expected: list[int]
) -> None:
    kind = np.int32 if isinstance(values[0], int) else np.float32
    assert floats_in(tmp_path, values, kind=kind) == [expected]


def test_values_of_other_types_are_scaled_alike_in_all_images_of_the_data(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        found = floats_in(tmp_path, [0.0, 0.51, 0.9], [0.255, 0.51, 1.02])
    assert found == [[0, 128, 225], [64, 128, 255]]
    assert "6 images of 32 bits a pixel: 0 is black, 1.02 is white." in caplog.text
    assert floats_in(tmp_path / "depths", [-1.5, 0.0, 1.5], [0.0, 0.0, 0.0], [9.0, 9.0, 10.5]) == [
        [0, 32, 64],
        [32, 32, 32],
        [223, 223, 255],
    ]
    with pytest.raises(DataAgentError, match=r"2\.tif .row 2 of train.: no pixel is a number"):
        floats_in(tmp_path / "empty", [0.0] * 3, [1.0] * 3, [float("nan")] * 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_are_upright(orientation: int) -> None:
    half = np.zeros((16, 16, 3), np.uint8)
    half[:8], half[:4, :4] = 255, 100
    image = Image.fromarray(half)
    exif = image.getexif()
    exif[0x0112] = orientation
    cell = encoded(image, "JPEG", exif=exif, quality=95)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(cell["bytes"]))).convert("RGB")
    assert np.array_equal(decode(cell, Canvas(16, 16)), np.asarray(upright))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB"])
def test_what_is_transparent_is_white(mode: str) -> None:
    colours = np.full((16, 16, 4), 90, dtype=np.uint8)
    colours[:8, :, 3], colours[8:, :, 3] = 0, 255
    options: dict[str, Any] = {}
    if mode in ("RGBA", "LA"):
        image = Image.fromarray(colours).convert(mode)
    else:
        image = Image.fromarray(colours[..., 0]).convert(mode)
        place = image.getpixel((0, 0))
        image.paste((0, 0, 0) if mode == "RGB" else (place + 1) % 256, (0, 8, 16, 16))
        options = {"transparency": place}
    found = decode(encoded(image, **options), Canvas(16, 16))
    assert found[:8].min() == 255
    assert found[8:].max() < 250


def test_opaque_images_are_as_they_were() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    assert np.array_equal(decode(encoded(image), Canvas(16, 16)), pixels)
    assert np.array_equal(decode(encoded(image.convert("RGBA")), Canvas(16, 16)), pixels)
    grey = np.asarray(image.convert("L"))
    assert np.array_equal(decode(encoded(image.convert("L")), Canvas(16, 16))[..., 2], grey)
    bits = image.convert("1")
    assert np.array_equal(decode(encoded(bits), Canvas(16, 16))[..., 0], 255 * np.asarray(bits))


@pytest.mark.parametrize("size", [(1, 300), (300, 1), (1, 1), (3, 2000)])
def test_extreme_shapes_are_fine(size: tuple[int, int]) -> None:
    assert (
        decode(encoded(Image.new("RGB", size, (9, 9, 9))), Canvas(8, 8)).tolist()
        == [[[9] * 3] * 8] * 8
    )


def png(depth: int, samples: list[int], key: list[int]) -> dict[str, Any]:
    """Equal rows of pixels of `depth` bits a level, in which the colour `key` is transparent."""
    bits = "".join(f"{level:0{depth}b}" for level in samples)
    row, width = int(bits, 2).to_bytes(len(bits) // 8, "big"), len(samples) // len(key)
    header = struct.pack(">IIBB3x", width, width, depth, 2 if len(key) > 1 else 0)
    transparent = struct.pack(f">{len(key)}H", *key)
    pixels = zlib.compress((b"\0" + row) * width)
    chunks = ((b"IHDR", header), (b"tRNS", transparent), (b"IDAT", pixels))
    content = b"\x89PNG\r\n\x1a\n"
    for name, body in (*chunks, (b"IEND", b"")):
        check = struct.pack(">I", zlib.crc32(name + body))
        content += struct.pack(">I", len(body)) + name + body + check
    return {"bytes": content, "path": None}


@pytest.mark.parametrize(
    ("depth", "samples", "key", "expected"),
    [
        (1, [0, 1] * 8, [0], [255, 255] * 8),
        (2, [0, 1, 2, 3] * 2, [1], [0, 255, 170, 255] * 2),
        (4, [0, 5, 15, 14], [5], [0, 255, 255, 238]),
        (8, [0, 5, 15, 14], [5], [0, 255, 15, 14]),
        (16, [0, 30000, 257, 1], [0], [255, 117, 1, 0]),
        (16, [30000, 30001], [30000], [255, 117]),
        (8, [9, 8, 7, 1, 2, 3], [9, 8, 7], [255, 1]),
        (16, [30000, 8, 7, 514, 2, 3], [30000, 8, 7], [255, 2]),
    ],
)
def test_a_transparent_colour_is_one_of_the_files_levels(
    depth: int, samples: list[int], key: list[int], expected: list[int]
) -> None:
    width = len(samples) // len(key)
    assert decode(png(depth, samples, key), Canvas(width, width))[0, :, 0].tolist() == expected
