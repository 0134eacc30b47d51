"""The recipe of detection tasks. Nothing here imports torch, so that `--help` is quick."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from data_agent.errors import InputError
from data_agent_lab.image_models import LEAST_WIDTH
from data_agent_lab.recipes import Optimizer, Recipe, Schedule, check_optimizer, check_recipe
from data_agent_lab.rules import NotNegative, Share, at_least, flag_of

BoxFormat = Literal["xywh", "xyxy"]
BoxAugmentation = Literal["none", "flip", "flip-jitter"]

_HALVINGS = 16  # of a detector: its images are halved four times


@dataclass(frozen=True, kw_only=True, slots=True)
class DetectionRecipe(Recipe):
    """How every method trains a detector from scratch."""

    task: str
    """detection, or a task of the suite."""
    data: str | None
    """Hub name (owner/name or owner/name:configuration), parquet files with a column of objects, or
    a folder with COCO's JSON or Pascal VOC's XML beside the images."""
    image_column: str | None = None
    """Column with the images; None finds it by its type."""
    objects_column: str | None = None
    """Column with the objects, of which each has a box and a category; None finds it."""
    box_format: BoxFormat = "xywh"
    """How rows give boxes, in pixels: xywh (left, upper side, width, height) or xyxy (four sides).
    The formats of COCO and VOC are known."""
    image_width: Annotated[int, at_least(32)] = 128
    """Width that images are brought to, in pixels, a multiple of 16; each is scaled in proportion
    until it fits, and black is added."""
    image_height: Annotated[int, at_least(32)] = 96
    """Height, likewise."""
    model: str = "detector-16"
    """detector-WIDTH: channels of the first of four stages, which double from stage to stage."""
    optimizer: Optimizer = "adamw"
    """sgd (Nesterov) or adamw."""
    schedule: Schedule = "one-cycle"
    """Learning rate over all steps: one-cycle (up for 30 %, then down to zero) or cosine (down)."""
    weight_decay: NotNegative = 1e-2
    """Weight decay, 0 or more."""
    momentum: Share = 0.9
    """Momentum of sgd, in [0, 1)."""
    augment: BoxAugmentation = "flip-jitter"
    """Augmentation of training images: none, flip (left and right), or flip-jitter (and brighter or
    darker, with more or less contrast)."""

    def __post_init__(self) -> None:
        check_recipe(self)
        check_optimizer(self.optimizer, self.learning_rate)
        if not re.fullmatch(r"detector-[1-9]\d*", self.model):
            raise InputError(f"--model is {self.model!r}; expected detector-WIDTH, as detector-16.")
        if int(self.model.removeprefix("detector-")) < LEAST_WIDTH:
            raise InputError(
                f"--model is {self.model!r}; a detector needs at least {LEAST_WIDTH} channels. Use "
                f"detector-{LEAST_WIDTH}."
            )
        for name in ("image_width", "image_height"):
            if (size := getattr(self, name)) % _HALVINGS:
                raise InputError(
                    f"{flag_of(name)} is {size}; the detector halves its images four times, which "
                    f"takes a multiple of {_HALVINGS}, such as {size - size % _HALVINGS}."
                )
        for name in ("label_column", "label_noise"):
            if getattr(self, name):
                raise InputError(
                    f"{flag_of(name)} is for samples with a class each; images of {self.task} have "
                    "boxes (--objects-column). Leave it out."
                )
