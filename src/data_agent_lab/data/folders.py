"""Folders of images: which splits they hold, and which class each image belongs to."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets

from data_agent.errors import InputError
from data_agent_lab.data.tables import read_table

logger = logging.getLogger(__name__)

_SUFFIXES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".bmp", ".gif", ".webp", ".avif"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".ico"),
)
_METADATA = ("metadata.csv", "metadata.jsonl")
_SPLITS = {
    **{"train": "train", "training": "train", "test": "test", "testing": "test"},
    **{name: "validation" for name in ("validation", "valid", "val", "dev", "eval", "evaluation")},
}


def split_named(name: str) -> str | None:
    """The split that a file or folder is named after: train, validation, test; None if after none.

    A name is read as words, so that "train-00000-of-00002" and "my_test" are names of splits, and
    "training" and "dev" mean train and validation.
    """
    words = re.split(r"[^a-z0-9]+", name.lower())
    return next((_SPLITS[word] for word in words if word in _SPLITS), None)


def open_image_folder(root: Path) -> dict[str, datasets.Dataset]:
    """Every image below a folder, with its class, by split.

    SPLIT/CLASS/NAME.png, or CLASS/NAME.png without splits; a class may be a path of several folders
    (SPECIES/VARIETY). Folders are splits if all that lie side by side are named so, one of them
    train. With a metadata.csv or metadata.jsonl, whose column file_name names the images beside
    it, its other columns are read in place of the names of folders.

    Raises:
        InputError: it is unclear whether folders are splits or classes, or an image is missing.
    """
    files = list(_walk(root))
    images = find_images(root)
    tables = [file for file in files if file.name in _METADATA]
    known = {*images, *tables}
    others = Counter(file.suffix or file.name for file in files if file not in known)
    if others:
        found = ", ".join(f"{count} {suffix}" for suffix, count in others.items())
        logger.warning("%s: left out what is no image by its suffix: %s.", root, found)
    while _is_wrapped(root, images):
        root = root / images[0].relative_to(root).parts[0]
    has_splits = _has_splits(root, images)
    by_split: dict[str, list[dict[str, Any]]] = {}
    for file, columns in _listed(tables, images) if tables else ((file, {}) for file in images):
        parts = file.relative_to(root).parts
        split = (split_named(parts[0]) if has_splits else None) or "train"
        folders = parts[1:-1] if has_splits else parts[:-1]
        row = columns or {"label": "/".join(folders) or None}
        by_split.setdefault(split, []).append({**row, "image": {"path": str(file), "bytes": None}})
    if not tables:
        _check_classes(by_split)
    return {split: _dataset(rows) for split, rows in by_split.items()}


def find_images(root: Path) -> list[Path]:
    """Files below a folder that are images by their suffix; hidden ones do not count."""
    return [file for file in _walk(root) if file.suffix.lower() in _SUFFIXES]


def _walk(root: Path) -> Iterator[Path]:
    """Files that are not hidden, in order; also in folders that are links."""
    for folder, names, files in os.walk(root, followlinks=True):
        names[:] = sorted(name for name in names if not name.startswith((".", "__")))
        yield from (Path(folder) / name for name in sorted(files) if name[0] != ".")


def _tops(root: Path, images: Sequence[Path]) -> set[str]:
    """Names of the folders in which images lie; empty for those beside them."""
    parts = [image.relative_to(root).parts for image in images]
    return {names[0] if len(names) > 1 else "" for names in parts}


def _is_wrapped(root: Path, images: Sequence[Path]) -> bool:
    """Whether all images lie in folders of one folder, which is no split."""
    tops = _tops(root, images)
    return (
        len(tops) == 1
        and not split_named(*tops)
        and all(len(image.relative_to(root).parts) > 2 for image in images)
    )


def _has_splits(root: Path, images: Sequence[Path]) -> bool:
    tops = _tops(root, images)
    splits = {top: split_named(top) for top in tops}
    if "train" not in splits.values():
        return False
    others = sorted(top or "images beside them" for top, split in splits.items() if split is None)
    clear = sorted(top for top in tops if top.lower() in _SPLITS)
    if not others:
        return True
    if "train" in (_SPLITS[top.lower()] for top in clear):
        raise InputError(
            f"{root} holds {', '.join(clear)}, named like a split, beside {', '.join(others[:5])}"
            f"{', ...' if len(others) > 5 else ''}. If all of them are classes, put them into one "
            "folder train; if only the first are splits, move the others away."
        )
    return False


def _listed(
    tables: Sequence[Path], images: Sequence[Path]
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Images that metadata list, each with its other columns."""
    listed: list[tuple[Path, dict[str, Any]]] = []
    for table in tables:
        rows: Any = read_table(table, ",") if table.suffix == ".csv" else _json_lines(table)
        for row in rows:
            if not isinstance(row.get("file_name"), str):
                raise InputError(f"{table} has a row without a file_name: {row}.")
            columns = {
                name: cell for name, cell in row.items() if name not in ("file_name", "image")
            }
            listed.append((table.parent / row["file_name"], columns))
    known = {file.resolve() for file in images}
    missing = [str(file) for file, _ in listed if file.resolve() not in known]
    if missing:
        raise InputError(
            f"the metadata list {len(missing)} images that do not exist: {', '.join(missing[:20])}"
            f"{', ...' if len(missing) > 20 else ''}. Remove these rows, or add the images."
        )
    unlisted = known - {file.resolve() for file, _ in listed}
    if unlisted:
        logger.warning("%d images are in no row of the metadata, and left out.", len(unlisted))
    yield from listed


def _json_lines(file: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            if line.strip():
                yield json.loads(line)
        except ValueError as error:
            raise InputError(f"{file}, line {number} is no JSON: {error}.") from error


def _check_classes(by_split: dict[str, list[dict[str, Any]]]) -> None:
    loose = [row["image"]["path"] for row in by_split.get("train", ()) if row["label"] is None]
    if loose:
        raise InputError(
            f"{len(loose)} images to train on lie in no class folder, such as {loose[0]}. Expected "
            "train/CLASS/NAME.png or CLASS/NAME.png; classes that are named like splits belong "
            "into a folder train as well."
        )


def _dataset(rows: list[dict[str, Any]]) -> datasets.Dataset:
    """With a fingerprint that follows the files, so that changed ones are decoded anew."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    made = datasets.Dataset.from_dict({name: [row.get(name) for row in rows] for name in names})
    digest = hashlib.sha256(str(rows).encode())
    for row in rows:
        path = Path(row["image"]["path"])
        if path.exists():  # a link to nothing is found when it is decoded
            digest.update(f" {path.stat().st_size} {path.stat().st_mtime_ns}".encode())
    made._fingerprint = digest.hexdigest()[:16]  # pyright: ignore[reportPrivateUsage]
    return made.cast_column("image", datasets.Image(decode=False))
