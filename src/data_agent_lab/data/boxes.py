"""Images with boxes in memory: what a detector is trained and judged on.

All images lie on one canvas, whole and in proportion, and boxes with them.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import TensorDataset

from data_agent.errors import InputError
from data_agent.trusted import warn_of_overlap
from data_agent_lab.data.annotations import BOX_FORMS, Annotated, Box, are_numbers, open_boxes
from data_agent_lab.data.decoding import Part, decoded
from data_agent_lab.data.image_data import hold_out, stratified
from data_agent_lab.data.labels import first_few
from data_agent_lab.data.origins import files_of, followed
from data_agent_lab.data.pixels import Canvas
from data_agent_lab.data.sources import choose_splits, only_split
from data_agent_lab.detection_recipe import DetectionRecipe
from data_agent_lab.progress import Progress

NO_OBJECT = -1  # class of a place in a row of objects that holds none
_OFF_BY_ONE = 1.0  # pixels by which a side may lie outside: some programs count from one
_TURNED = range(5, 9)  # EXIF orientations that swap width and height
_ORIENTATION = 0x0112
_Thing = tuple[list[float], int]  # sides on the canvas, and class


class Objects(NamedTuple):
    """The objects in each of N images, at most M.

    Args:
        boxes: float32 `[N, M, 4]`: left, upper, right and lower side in pixels of the canvas.
        classes: int64 `[N, M]`, `NO_OBJECT` behind an image's last one.
    """

    boxes: Tensor
    classes: Tensor

    def at(self, rows: Tensor) -> Objects:
        """Those of some images, int64 `[R]`."""
        return Objects(self.boxes[rows], self.classes[rows])


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DetectionData:
    """Images of one size, and the objects in them.

    Raises:
        InputError: no images, or no objects at all.
    """

    train_images: Tensor  # uint8 [N, C, H, W], C is 1 (grey) or 3 (red, green, blue)
    train_objects: Objects
    eval_images: Tensor  # uint8 [M, C, H, W]
    eval_objects: Objects
    class_names: tuple[str, ...]
    evaluation: str  # where the evaluation samples come from, in words
    num_trusted: int = 0  # the last training samples are trusted ones of a data set of their own
    rows: Tensor | None = None  # int64 [N], of the training data, or NO_ROW; None if not known
    files: Sequence[str] = ()  # the image file of each row; empty where images lie in tables

    def __post_init__(self) -> None:
        for what, objects in (("training", self.train_objects), ("evaluation", self.eval_objects)):
            if not len(objects.classes) or not (objects.classes >= 0).any():
                raise InputError(
                    f"the {len(objects.classes)} {what} images have no box at all; a detector "
                    f"learns from boxes and is judged by them. {BOX_FORMS}"
                )

    @property
    def num_train(self) -> int:
        """Number of training images."""
        return len(self.train_images)

    @property
    def num_eval(self) -> int:
        """Number of evaluation images."""
        return len(self.eval_images)

    def in_words(self) -> str:
        """What there is."""
        classes = self.train_objects.classes
        num_empty = int((classes < 0).all(1).sum())
        counts = classes[classes >= 0].bincount(minlength=len(self.class_names)).tolist()
        by_class = [f"{n:,} {name}" for n, name in zip(counts, self.class_names, strict=True)]
        return (
            f"{self.num_train:,} training images, {num_empty} of them empty, with "
            f"{first_few(by_class, 10)}; evaluation on {self.num_eval:,} ({self.evaluation})"
        )

    def at(self, rows: Any) -> DetectionData:
        """The data with these training images, int64 `[R]` ascending, and the trusted ones."""
        rows, last = torch.as_tensor(rows), self.num_train - self.num_trusted
        rows = torch.cat([rows[rows < last], torch.arange(last, self.num_train)])
        return replace(
            self,
            train_images=self.train_images[rows],
            train_objects=self.train_objects.at(rows),
            rows=None if self.rows is None else self.rows[rows],
        )

    def trusted(self, recipe: DetectionRecipe) -> Tensor | None:
        """Which training images are trusted, int64 `[T]`; None for none.

        Those of a data set of their own, or `--trusted-rows` of all, drawn evenly.

        Raises:
            InputError: more than half of all are to be trusted.
        """
        if self.num_trusted:
            return torch.arange(self.num_train - self.num_trusted, self.num_train)
        if (count := recipe.trusted_rows) > self.num_train // 2:
            raise InputError(
                f"--trusted-rows is {count}; there are {self.num_train} training images, of which "
                "at most half can be trusted. Trust fewer."
            )
        return _drawn(self.num_train, count) if count else None


def _drawn(num_all: int, count: int) -> Tensor:
    """`count` of all rows, the same each time: int64, ascending."""
    return stratified(torch.zeros(num_all, dtype=torch.int64), count)


def load_detection(recipe: DetectionRecipe, *, progress: Progress) -> DetectionData:
    """Load a recipe's images and boxes into memory; images are decoded once and cached.

    Raises:
        InputError: data that cannot be found, read or understood, or boxes that are none; the
            message counts these.
    """
    if recipe.data is None:
        raise InputError(f"the task {recipe.task} needs --data. {BOX_FORMS}")
    splits = _open(recipe.data, recipe)
    rows, eval_name = choose_splits(splits, Annotated.has_boxes)
    train = _Split("train", rows)
    if eval_name is None:
        kept, held = hold_out(torch.zeros(len(rows), dtype=torch.int64))
        train, evaluation = _Split("train", rows, kept), _Split("train", rows, held)
        source = f"{len(held)} images held out of 'train' (10 %)"
    else:
        evaluation, source = _Split(eval_name, splits[eval_name]), f"split {eval_name!r}"
    if recipe.subset is not None:
        train = _Split("train", rows, train.rows[_drawn(len(train.rows), recipe.subset)])
    parts = [train, evaluation]
    if recipe.trusted is not None:
        own = only_split(_open(recipe.trusted, recipe, "--trusted"), "--trusted")
        parts.append(_Split("the trusted data", own))
    return _loaded(parts, source, recipe, progress)


def _open(data: str, recipe: DetectionRecipe, flag: str = "--data") -> dict[str, Annotated]:
    return open_boxes(
        data,
        image_column=recipe.image_column,
        objects_column=recipe.objects_column,
        box_format=recipe.box_format,
        flag=flag,
    )


class _Split(NamedTuple):
    """Images of a split that are used."""

    name: str
    content: Annotated
    chosen: Tensor | None = None

    @property
    def rows(self) -> Tensor:
        """int64, ascending."""
        return torch.arange(len(self.content)) if self.chosen is None else self.chosen


def _loaded(
    parts: Sequence[_Split], source: str, recipe: DetectionRecipe, progress: Progress
) -> DetectionData:
    canvas = Canvas(recipe.image_width, recipe.image_height, shows_all=True)
    names = _class_names(parts[0].content)
    encoded = [Part(part.name, part.content.images, part.rows) for part in parts]
    images = decoded(encoded, canvas, progress)  # before boxes: damaged images have no size
    objects = [_placed(part, names, canvas) for part in parts]
    width = max(part.classes.shape[1] for part in objects)
    objects = [_widened(part, width) for part in objects]
    data = DetectionData(
        train_images=images[0],
        train_objects=objects[0],
        eval_images=images[1],
        eval_objects=objects[1],
        class_names=names,
        evaluation=source,
        rows=parts[0].rows,
        files=files_of(parts[0].content.images, recipe.data or ""),
    )
    if len(parts) == 2:
        return data
    warn_of_overlap(*(TensorDataset(images[n], objects[n].classes) for n in (2, 1)))
    return replace(
        data,
        train_images=torch.cat([images[0], images[2]]),
        train_objects=Objects(*map(torch.cat, zip(objects[0], objects[2], strict=True))),
        num_trusted=len(images[2]),
        rows=followed(data.rows, len(images[2])),
    )


def _class_names(train: Annotated) -> tuple[str, ...]:
    """Categories that occur in the training data, in the data's order or the alphabet's."""
    found = {name for names in train.names for name in names}
    known = [name for name in train.known if name in found]
    return (*known, *sorted(found.difference(known)))


def _placed(part: _Split, names: Sequence[str], canvas: Canvas) -> Objects:
    """The objects of a split on the canvas.

    Raises:
        InputError: some are no boxes in their image, or of no category of the training data.
    """
    number = {name: place for place, name in enumerate(names)}
    problems: dict[str, list[str]] = {}
    rows: list[list[_Thing]] = []
    chosen: list[int] = part.rows.tolist()
    (cells,) = cast("dict[str, list[Any]]", part.content.images[chosen]).values()
    for row, cell in zip(chosen, cells, strict=True):
        size = _size_of(cell)
        rows.append([])
        for box, name in zip(part.content.boxes[row], part.content.names[row], strict=True):
            problem = _problem(box, size, name in number)
            if problem is None:
                rows[-1].append((_on_canvas(box, size, canvas), number[name]))
                continue
            sides = [round(side, 1) for side in box] if are_numbers(box) else box
            what = f"{sides} {name!r} in row {row} of {part.name}"
            problems.setdefault(problem, []).append(f"{what}, {size[0]} x {size[1]} pixels")
    if problems:
        raise InputError(_in_words(problems, sum(map(len, part.content.boxes)), names))
    return _padded(rows)


def _on_canvas(box: Box, size: tuple[int, int], canvas: Canvas) -> list[float]:
    """The sides of a box of an image of that size, cut where they lie off by one."""
    scale = min(canvas.width / size[0], canvas.height / size[1])
    return [min(max(side, 0.0), end) * scale for side, end in zip(box, size * 2, strict=True)]


def _size_of(cell: Mapping[str, Any]) -> tuple[int, int]:
    """Width and height of an image as people see it; its pixels are not decoded."""
    source = cell["path"] if cell["bytes"] is None else io.BytesIO(cell["bytes"])
    with Image.open(source) as image:
        width, height = image.size
        is_turned = image.getexif().get(_ORIENTATION) in _TURNED
    return (height, width) if is_turned else (width, height)


def _problem(box: Box, size: tuple[int, int], is_known: bool) -> str | None:
    """What is wrong with an object, if anything."""
    if len(box) != 4 or not are_numbers(box) or not all(map(math.isfinite, box)):
        return "are no four numbers"
    left, upper, right, lower = box
    width, height = size
    if right <= left or lower <= upper:
        return "have no area"
    if min(left, upper) < -_OFF_BY_ONE or right - width > _OFF_BY_ONE:
        return "reach out of their image"
    if lower - height > _OFF_BY_ONE or left >= width or upper >= height:
        return "reach out of their image"
    return None if is_known else "have a category that the training data do not have"


def _in_words(problems: Mapping[str, Sequence[str]], num_boxes: int, names: Sequence[str]) -> str:
    lines = [f"{len(found)} {problem}, such as {found[0]}" for problem, found in problems.items()]
    return (
        f"{sum(map(len, problems.values()))} of {num_boxes} boxes cannot be used:\n  "
        + "\n  ".join(lines)
        + "\nBoxes are given here as left, upper, right and lower side in pixels, with 0, 0 the "
        "upper left corner; rows say them as left, upper, width, height (--box-format xywh) or as "
        f"the four sides (xyxy). Categories are {first_few(names, 20)}. Repair or remove them."
    )


def _padded(rows: Sequence[Sequence[_Thing]]) -> Objects:
    size = max(map(len, rows), default=0)
    boxes = torch.zeros(len(rows), size, 4)
    classes = torch.full((len(rows), size), NO_OBJECT)
    for place, things in enumerate(rows):
        boxes[place, : len(things)] = torch.tensor([box for box, _ in things]).view(-1, 4)
        classes[place, : len(things)] = torch.tensor([number for _, number in things]).long()
    return Objects(boxes, classes)


def _widened(objects: Objects, size: int) -> Objects:
    """With room for `size` objects an image."""
    more = size - objects.classes.shape[1]
    boxes = torch.nn.functional.pad(objects.boxes, (0, 0, 0, more))
    return Objects(boxes, torch.nn.functional.pad(objects.classes, (0, more), value=NO_OBJECT))
