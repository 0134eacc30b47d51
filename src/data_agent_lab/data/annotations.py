"""Images with boxes, as data sets have them: rows of the hub, COCO's JSON, Pascal VOC's XML.

Whatever the form, a box becomes left, upper, right and lower side in pixels of its image, and its
category a name.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import datasets

from data_agent.errors import InputError
from data_agent_lab.data.folders import IMAGE_SUFFIXES, images_of_files, open_images, walk
from data_agent_lab.data.labels import find_column, first_few
from data_agent_lab.data.sources import SPLITS, split_named

logger = logging.getLogger(__name__)

BOX_FORMS = (
    "Expected parquet files with a column of objects (bbox, category), COCO's JSON or Pascal VOC's "
    "XML beside their images, or a data set's name on the Hugging Face hub."
)
_IMAGES, _OBJECTS = ("image", "img"), ("objects", "annotations", "annotation")
_BOXES = ("bbox", "bboxes", "box", "boxes")
_CATEGORIES = ("category", "categories", "category_id", "label", "labels", "class")
_COCO_PARTS = ("images", "annotations", "categories")
_DIGITS = re.compile(r"\d+")
Box = Sequence[float]
"""Left, upper, right and lower side in pixels."""


@dataclass(frozen=True, slots=True, eq=False)
class Annotated:
    """A split: its images, still encoded, and the objects in each."""

    images: datasets.Dataset  # one column, {"bytes", "path"}
    boxes: Sequence[Sequence[Box]]  # of each image
    names: Sequence[Sequence[str]]  # of each image the category of each box
    known: Sequence[str]  # categories in the order of the data; some may never occur

    def __len__(self) -> int:
        """Number of images."""
        return len(self.boxes)

    def has_boxes(self) -> bool:
        """Whether any image has one; benchmarks publish splits without."""
        return any(self.boxes)


def open_boxes(
    data: str,
    *,
    image_column: str | None = None,
    objects_column: str | None = None,
    box_format: str = "xywh",
    flag: str = "--data",
) -> dict[str, Annotated]:
    """The splits of a data set with boxes.

    Args:
        data: hub name, parquet file or folder; a folder may hold JSON of COCO, or XML of VOC.
        image_column: of rows, the column with images; None finds it.
        objects_column: of rows, the column with objects; None finds it.
        box_format: of rows: xywh (as COCO: left, upper side, width, height) or xyxy (four sides).
        flag: which named the data, for messages.

    Raises:
        InputError: nothing that can be read as such.
    """
    root = Path(data).expanduser()
    if root.is_dir():
        files = list(walk(root.resolve()))
        if found := _coco_files(files):
            return _of_coco(root.resolve(), files, found)
        if found := [file for file in files if file.suffix.lower() == ".xml"]:
            return _of_voc(root.resolve(), files, found)

    def read(rows: datasets.Dataset) -> Annotated:
        return _of_rows(rows, image_column, objects_column, box_format)

    return {name: read(rows) for name, rows in open_images(data, flag=flag).items()}


# Rows of the hub.


def _of_rows(
    rows: datasets.Dataset, image_column: str | None, objects_column: str | None, box_format: str
) -> Annotated:
    column = find_column(rows, image_column, usual=_IMAGES, fits=_is_image, what="image")
    objects = find_column(
        rows, objects_column, usual=_OBJECTS, fits=lambda kind: _parts(kind) != {}, what="objects"
    )
    images = rows.select_columns([column]).cast_column(column, datasets.Image(decode=False))
    parts = _parts(rows.features[objects])
    bbox = _named(parts, _BOXES, "boxes", objects)
    category = _named(parts, _CATEGORIES, "categories", objects)
    known, name_of = _naming(parts[category])
    boxes: list[list[Box]] = []
    names: list[list[str]] = []
    for cell in rows[objects]:
        own, kinds = (_column(cell, name) for name in (bbox, category))
        if len(own) != len(kinds):
            raise InputError(
                f"row {len(boxes)} has {len(own)} boxes and {len(kinds)} categories in "
                f"{objects!r}; expected one of each an object."
            )
        boxes.append([_sides(box) if box_format == "xywh" else box for box in own])
        names.append([name_of(kind) for kind in kinds])
    return Annotated(images, boxes, names, known)


def _is_image(kind: Any) -> bool:
    return isinstance(kind, datasets.Image) or (
        isinstance(kind, dict) and kind.keys() == {"bytes", "path"}
    )


def _parts(kind: Any) -> Mapping[str, Any]:
    """The fields of a struct of lists, or of a list of structs; nothing of other types."""
    inner = getattr(kind, "feature", kind)
    if not isinstance(inner, dict) or inner.keys() == {"bytes", "path"}:
        return {}
    return {name: getattr(part, "feature", part) for name, part in inner.items()}


def _named(parts: Mapping[str, Any], usual: Sequence[str], what: str, column: str) -> str:
    if (found := next((name for name in usual if name in parts), None)) is None:
        raise InputError(
            f"the objects in {column!r} have {', '.join(parts)}, and none of these is called "
            f"{', '.join(usual)}: which holds the {what}? Rename it, or name another column with "
            "--objects-column."
        )
    return found


def _column(cell: Any, name: str) -> Sequence[Any]:
    """A field of all objects of a row: of a struct of lists, or of a list of structs."""
    if cell is None:
        return ()
    return (cell[name] or ()) if isinstance(cell, dict) else [thing[name] for thing in cell]


def _naming(kind: Any) -> tuple[Sequence[str], Callable[[Any], str]]:
    """Names that the data declare, in order, and how a value becomes a name."""
    if isinstance(kind, datasets.ClassLabel):
        names = list(kind.names)
        return names, lambda value: names[value] if 0 <= value < len(names) else str(value)
    return (), str


def are_numbers(box: Sequence[Any]) -> bool:
    """Whether a box is of numbers: files may hold texts."""
    return all(isinstance(side, (int, float)) for side in box)


def _sides(box: Box) -> Box:
    """The sides of a box that says where its upper left corner is, and its width and height.

    What has not four numbers stays as it is, to be refused with the others that are no boxes.
    """
    if len(box) != 4 or not are_numbers(box):
        return box
    x, y, width, height = box
    return x, y, x + width, y + height


# COCO.


def _coco_files(files: Iterable[Path]) -> dict[Path, Mapping[str, Any]]:
    """The JSON files with images and their objects."""
    found: dict[Path, Mapping[str, Any]] = {}
    for file in files:
        if file.suffix.lower() == ".json":
            content = _read_json(file)
            if isinstance(content, dict) and set(_COCO_PARTS) <= set(content):
                found[file] = content
    return found


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read as JSON ({error}).") from error


def _of_coco(
    root: Path, files: Sequence[Path], contents: Mapping[Path, Mapping[str, Any]]
) -> dict[str, Annotated]:
    splits = _by_split(root, contents)
    beside = _images_by_name(files)
    found: dict[str, Annotated] = {}
    for split, file in splits.items():
        try:
            found[split] = _of_coco_file(root, file, contents[file], beside)
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{file} is not as COCO's JSON is ({type(error).__name__}: {error}). Expected "
                "images (id, file_name), annotations (image_id, category_id, bbox) and categories "
                "(id, name)."
            ) from error
    return found


def _by_split(root: Path, contents: Iterable[Path]) -> dict[str, Path]:
    """A file for each split, by its name (instances_train2017.json) or its folder's."""
    found: dict[str, Path] = {}
    for file in contents:
        split = _split_of(file, root) or "train"
        if split in found:
            raise InputError(
                f"{found[split]} and {file} both are about the split {split}. Name files or "
                "folders train, validation and test, one file each, and move others away."
            )
        found[split] = file
    return found


def _split_of(file: Path, root: Path) -> str | None:
    """The split that a file is named after, it or else its folders; years do not count."""
    names = (file.stem, *reversed(file.relative_to(root).parts[:-1]))
    return next((found for name in names if (found := split_named(_DIGITS.sub("", name)))), None)


def _of_coco_file(
    root: Path, file: Path, content: Mapping[str, Any], images: Mapping[str, Sequence[Path]]
) -> Annotated:
    kinds = {kind["id"]: str(kind["name"]) for kind in content["categories"]}
    of_image: dict[Any, list[tuple[Box, str]]] = {image["id"]: [] for image in content["images"]}
    num_crowds, lost = 0, 0
    for thing in content["annotations"]:
        if thing.get("iscrowd"):
            num_crowds += 1
        elif thing["image_id"] not in of_image:
            lost += 1
        else:
            name = kinds.get(thing["category_id"], str(thing["category_id"]))
            of_image[thing["image_id"]].append((_sides(thing["bbox"]), name))
    if lost:
        raise InputError(f"{file}: {lost} objects belong to images that the file does not list.")
    if num_crowds:
        logger.warning("%s: %d regions of crowds are left out.", file, num_crowds)
    paths = [_image_named(image["file_name"], file, root, images) for image in content["images"]]
    return _annotated(file, paths, list(of_image.values()), [kinds[k] for k in sorted(kinds)])


# Pascal VOC.


def _of_voc(root: Path, files: Sequence[Path], annotations: Sequence[Path]) -> dict[str, Annotated]:
    listed = _image_sets(files)
    images = _images_by_name(files)
    rows: dict[str, list[tuple[Path | None, list[tuple[Box, str]]]]] = {}
    num_left_out = 0
    for file in annotations:
        split = listed.get(file.stem) if listed else _split_of(file, root) or "train"
        if split is None:
            num_left_out += 1
            continue
        rows.setdefault(split, []).append(_of_voc_file(file, root, images))
    if num_left_out:
        logger.warning("%s: %d images are in no list of ImageSets/Main.", root, num_left_out)
    return {
        split: _annotated(root, [path for path, _ in found], [things for _, things in found], ())
        for split, found in rows.items()
    }


def _image_sets(files: Iterable[Path]) -> dict[str, str]:
    """By name of an image its split, as the lists in ImageSets/Main say; empty without lists."""
    return {
        line.split()[0]: SPLITS[file.stem]
        for file in files
        if file.parent.name == "Main" and file.suffix == ".txt" and file.stem in SPLITS
        for line in file.read_text(encoding="utf-8").splitlines()
        if line.strip()
    }


def _of_voc_file(
    file: Path, root: Path, images: Mapping[str, Sequence[Path]]
) -> tuple[Path | None, list[tuple[Box, str]]]:
    try:
        tree = ElementTree.parse(file).getroot()
        things = [(_voc_box(thing), str(thing.findtext("name"))) for thing in tree.iter("object")]
    except (ElementTree.ParseError, TypeError, ValueError) as error:
        raise InputError(
            f"{file} cannot be read as XML of Pascal VOC ({error}). Expected an annotation with an "
            "object for each box: name, and bndbox with xmin, ymin, xmax, ymax."
        ) from error
    name = tree.findtext("filename") or file.stem
    if name not in images and (beside := images.get(file.stem)):
        name = beside[0].name  # annotations are often older than the names of their images
    return _image_named(name, file, root, images), things


def _voc_box(thing: ElementTree.Element) -> Box:
    """The sides of a VOC box: its pixels count from 1, and the last ones belong to it."""
    sides: Any = [thing.findtext(f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")]
    left, upper, right, lower = map(float, sides)
    return max(0.0, left - 1), max(0.0, upper - 1), right, lower


# Files of images.


def _images_by_name(files: Iterable[Path]) -> dict[str, list[Path]]:
    """Images by their name, and by it without its suffix."""
    found: dict[str, list[Path]] = {}
    for file in files:
        if file.suffix.lower() in IMAGE_SUFFIXES:
            for name in (file.name, file.stem):
                found.setdefault(name, []).append(file)
    return found


def _image_named(
    name: str, of: Path, root: Path, images: Mapping[str, Sequence[Path]]
) -> Path | None:
    """The image that an annotation names: beside it, below the root, or the only one so called.

    Of several with one name in other splits it is that of its own.
    """
    for place in (of.parent, root):
        path = Path(os.path.normpath(place / name))
        if path.is_relative_to(root) and path.is_file():
            return path
    found = images.get(Path(name).name, ())
    if len(found) > 1:
        found = [path for path in found if _split_of(path, root) == _split_of(of, root)]
    return found[0] if len(found) == 1 else None


def _annotated(
    source: Path,
    paths: Sequence[Path | None],
    things: Sequence[Sequence[tuple[Box, str]]],
    known: Sequence[str],
) -> Annotated:
    if missing := paths.count(None):
        raise InputError(
            f"{source}: {missing} of {len(paths)} images are not there, or several have the name. "
            f"{BOX_FORMS}"
        )
    if twice := [str(path) for path, count in Counter(paths).items() if count > 1]:
        raise InputError(f"{source}: listed more than once: {first_few(twice, 5)}.")
    return Annotated(
        images_of_files([{"image": {"path": str(path), "bytes": None}} for path in paths]),
        [[box for box, _ in own] for own in things],
        [[name for _, name in own] for own in things],
        known,
    )
