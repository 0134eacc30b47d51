"""Folders of images: which splits they hold, and which class each image belongs to."""

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets

from data_agent.errors import InputError
from data_agent_lab.data.labels import first_few
from data_agent_lab.data.sources import SPLITS, Splits, is_saved, open_rows, split_named

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".bmp", ".gif", ".webp", ".avif"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".ico"),
)
_METADATA = ("metadata.csv", "metadata.jsonl")
_IMAGE_FORMS = (
    "Expected a .parquet file, a folder of parquet files with split names (train.parquet, "
    "test.parquet), a folder of images (train/CLASS/NAME.png), or a data set's name on the "
    "Hugging Face hub."
)


def open_images(data: str, *, flag: str = "--data") -> Splits:
    """Load the splits of a hub name, a parquet file, a folder of parquet files or of images.

    Messages name the `flag` that named the data.

    Raises:
        InputError: no such path, no usable files in it, a name that the hub does not give, or it is
            unclear whether folders are splits or classes.
    """
    root = Path(os.path.abspath(Path(data).expanduser()))
    files = list(walk(root))
    images = [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES]
    if images and not any(root.rglob("*.parquet")) and not is_saved(root):
        return _open_folder(root, files, images)
    if images:
        logger.warning("%s: %d image files beside the data are left out.", data, len(images))
    return open_rows(data, {".parquet": "parquet"}, _IMAGE_FORMS, flag=flag)


def walk(root: Path) -> Iterator[Path]:
    """Files that are not hidden, in order; also in folders that are links."""
    for folder, names, files in os.walk(root, followlinks=True):
        names[:] = sorted(name for name in names if not name.startswith((".", "__")))
        yield from (Path(folder) / name for name in sorted(files) if name[0] != ".")


def _open_folder(root: Path, files: Sequence[Path], images: Sequence[Path]) -> Splits:
    """Every image below a folder, with its class, by split.

    SPLIT/CLASS/NAME.png, or CLASS/NAME.png without splits; a class may be a path of several folders
    (SPECIES/VARIETY). Folders are splits if all that lie side by side are named so, one of them
    train. With a metadata.csv or metadata.jsonl, whose column file_name names the images beside
    it, its other columns are read in place of the names of folders.
    """
    tables = [file for file in files if file.name in _METADATA]
    known = {*images, *tables}
    if others := Counter(file.suffix or file.name for file in files if file not in known):
        found = ", ".join(f"{count} {suffix}" for suffix, count in others.items())
        logger.warning("%s: left out what is no image by its suffix: %s.", root, found)
    folders = _folders_of(root, images)
    has_splits = _has_splits(root, {names[0] if names else "" for names in folders.values()})
    by_split: dict[str, list[dict[str, Any]]] = {}
    for file, columns in _listed(tables, images) if tables else ((file, None) for file in images):
        split, names = "train", folders[file]
        if has_splits:
            split, names = split_named(names[0]) or "train", names[1:]
        columns = columns or {"label": "/".join(names) or None}
        row = {**columns, "image": {"path": str(file), "bytes": None}}
        by_split.setdefault(split, []).append(row)
    train = [] if tables else by_split.get("train", [])
    if loose := [row["image"]["path"] for row in train if row["label"] is None]:
        raise InputError(
            f"{len(loose)} images to train on lie in no class folder, such as {loose[0]}. Expected "
            "train/CLASS/NAME.png or CLASS/NAME.png; classes that are named like splits belong "
            "into a folder train as well."
        )
    return {split: images_of_files(rows) for split, rows in by_split.items()}


def _folders_of(root: Path, images: Sequence[Path]) -> dict[Path, tuple[str, ...]]:
    """By image the folders it lies in, without those that hold all others and are no split."""
    folders = [image.relative_to(root).parts[:-1] for image in images]
    while all(len(names) > 1 and names[0] == folders[0][0] for names in folders):
        if split_named(folders[0][0]):
            break
        folders = [names[1:] for names in folders]
    return dict(zip(images, folders, strict=True))


def _has_splits(root: Path, tops: Collection[str]) -> bool:
    """Whether these folders (empty for images beside them) are splits."""
    others = sorted(top or "images beside them" for top in tops if split_named(top) is None)
    clear = sorted(top for top in tops if top.lower() in SPLITS)
    if others and "train" in map(split_named, clear):
        raise InputError(
            f"{root} holds {', '.join(clear)}, named like a split, beside {first_few(others, 5)}. "
            "If all of them are classes, put them into one folder train; if only the first are "
            "splits, move the others away."
        )
    return not others and "train" in map(split_named, tops)


def _listed(tables: Sequence[Path], images: Sequence[Path]) -> list[tuple[Path, dict[str, Any]]]:
    """Images that metadata list, each with its other columns."""
    listed: list[tuple[Path, dict[str, Any]]] = []
    for table in tables:
        rows: Any = open_rows(str(table))["train"]
        for row in rows:
            if not isinstance(row.get("file_name"), str):
                raise InputError(f"{table} has a row without a file_name: {row}.")
            file = Path(os.path.normpath(table.parent / row["file_name"]))
            others = {name: row[name] for name in row if name not in ("file_name", "image")}
            listed.append((file, others))
    known, found = set(images), {file for file, _ in listed}
    if missing := [str(file) for file, _ in listed if file not in known]:
        raise InputError(
            f"the metadata list {len(missing)} images that do not exist: {first_few(missing, 20)}. "
            "Remove these rows, or add the images."
        )
    if unlisted := known - found:
        logger.warning("%d images are in no row of the metadata, and left out.", len(unlisted))
    return listed


def images_of_files(rows: list[dict[str, Any]]) -> datasets.Dataset:
    """Rows whose column image names files, with a fingerprint that follows what is in these."""
    names = dict.fromkeys(name for row in rows for name in row)
    made = datasets.Dataset.from_dict({name: [row.get(name) for row in rows] for name in names})
    digest = hashlib.sha256(str(rows).encode())
    for path in (Path(row["image"]["path"]) for row in rows):
        if path.exists():  # a link to nothing is found when it is decoded
            digest.update(f" {path.stat().st_size} {path.stat().st_mtime_ns}".encode())
    made._fingerprint = digest.hexdigest()[:16]  # pyright: ignore[reportPrivateUsage]
    return made.cast_column("image", datasets.Image(decode=False))
