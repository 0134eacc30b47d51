"""Made-up images with boxes: bright squares and dim discs on a dark, noisy ground."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import torch
from PIL import Image

from data_agent_lab.data.boxes import NO_OBJECT, DetectionData, Objects

NAMES = ("disc", "square")
WIDTH, HEIGHT, MOST = 64, 48, 3


class Scene(NamedTuple):
    """An image, and of each object the box (four sides) and the class."""

    pixels: np.ndarray  # uint8 [HEIGHT, WIDTH, 3]
    boxes: list[list[int]]
    classes: list[int]


def scenes(count: int, *, seed: int = 0) -> list[Scene]:
    """Images with one to three objects; every seventh has none."""
    draws = np.random.default_rng(seed)
    return [_scene(0 if i % 7 == 6 else 1 + i % MOST, draws) for i in range(count)]


def _scene(num_objects: int, draws: np.random.Generator) -> Scene:
    pixels = draws.integers(0, 60, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    found = Scene(pixels, [], [])
    for place in range(num_objects):  # each in a third of its own
        size = int(draws.integers(10, 18))
        left = int(draws.integers(0, WIDTH // MOST - size + 1)) + place * (WIDTH // MOST)
        upper, kind = int(draws.integers(0, HEIGHT - size)), int(draws.integers(2))
        x, y = columns - left - size / 2, rows - upper - size / 2
        inside = (
            x**2 + y**2 < (size / 2) ** 2 if kind == 0 else np.maximum(abs(x), abs(y)) < size / 2
        )
        pixels[inside] = (120, 60, 160) if kind == 0 else (230, 230, 90)
        found.boxes.append([left, upper, left + size, upper + size])
        found.classes.append(kind)
    return found


def shapes(num_train: int = 48, num_eval: int = 24) -> DetectionData:
    """Such images in memory."""
    parts = [scenes(num_train), scenes(num_eval, seed=1)]
    images = [
        torch.from_numpy(np.stack([s.pixels for s in p]).transpose(0, 3, 1, 2)) for p in parts
    ]
    objects = [objects_of(part) for part in parts]
    return DetectionData(
        train_images=images[0].contiguous(),
        train_objects=objects[0],
        eval_images=images[1].contiguous(),
        eval_objects=objects[1],
        class_names=NAMES,
        evaluation="made up",
    )


def objects_of(part: Sequence[Scene], size: int = MOST) -> Objects:
    """The objects of images."""
    boxes, classes = torch.zeros(len(part), size, 4), torch.full((len(part), size), NO_OBJECT)
    for row, scene in enumerate(part):
        boxes[row, : len(scene.boxes)] = torch.tensor(scene.boxes, dtype=torch.float32).view(-1, 4)
        classes[row, : len(scene.classes)] = torch.tensor(scene.classes, dtype=torch.int64)
    return Objects(boxes, classes)


def png(scene: Scene) -> bytes:
    content = io.BytesIO()
    Image.fromarray(scene.pixels).save(content, "PNG")
    return content.getvalue()


def xywh(box: Sequence[float]) -> list[float]:
    left, upper, right, lower = box
    return [left, upper, right - left, lower - upper]


def write_parquet(file: Path, part: Sequence[Scene], **changes: Any) -> None:
    """As on the hub: an image, and objects as a struct of lists."""
    lists = getattr(datasets, "List", datasets.Sequence)
    kinds = {
        "bbox": lists(lists(datasets.Value("float32"), length=4)),
        "category": lists(datasets.ClassLabel(names=list(NAMES))),
    }
    features = datasets.Features({"image": datasets.Image(), "objects": kinds})
    objects = [{"bbox": [xywh(b) for b in s.boxes], "category": s.classes} for s in part]
    rows = {"image": [{"bytes": png(s), "path": None} for s in part], "objects": objects, **changes}
    file.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_dict(rows, features=features).to_parquet(file)


def write_images(folder: Path, part: Sequence[Scene]) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{row:03}.png" for row in range(len(part))]
    for name, scene in zip(names, part, strict=True):
        (folder / name).write_bytes(png(scene))
    return names


def write_coco(file: Path, folder: Path, part: Sequence[Scene], **changes: Any) -> None:
    """Annotations in a file of their own; categories are numbered 3 and 8."""
    names, numbers = write_images(folder, part), (3, 8)
    things = [
        {"id": 0, "image_id": row, "category_id": numbers[kind], "bbox": xywh(box), "iscrowd": 0}
        for row, scene in enumerate(part)
        for box, kind in zip(scene.boxes, scene.classes, strict=True)
    ]
    content = {
        "images": [{"id": row, "file_name": name} for row, name in enumerate(names)],
        "annotations": things,
        "categories": [{"id": n, "name": name} for n, name in zip(numbers, NAMES, strict=True)],
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({**content, **changes}))


def write_voc(root: Path, split: str, part: Sequence[Scene]) -> None:
    """Pixels count from one; a list in ImageSets/Main names the split's images."""
    names = [Path(name).stem for name in write_images(root / "JPEGImages" / split, part)]
    folder, lists = root / "Annotations", root / "ImageSets" / "Main"
    for place in (folder, lists):
        place.mkdir(parents=True, exist_ok=True)
    for name, scene in zip(names, part, strict=True):
        things = "".join(
            f"<object><name>{NAMES[kind]}</name><bndbox><xmin>{left + 1}</xmin><ymin>{upper + 1}"
            f"</ymin><xmax>{right}</xmax><ymax>{lower}</ymax></bndbox></object>"
            for (left, upper, right, lower), kind in zip(scene.boxes, scene.classes, strict=True)
        )
        file = folder / f"{split}-{name}.xml"
        path = f"../JPEGImages/{split}/{name}.png"
        file.write_text(f"<annotation><filename>{path}</filename>{things}</annotation>")
    (lists / f"{split}.txt").write_text("".join(f"{split}-{name}\n" for name in names))
