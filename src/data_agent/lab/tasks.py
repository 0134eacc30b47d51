"""The tasks of the lab, in one table: their defaults and how their data is loaded."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from data_agent._errors import InputError
from data_agent.lab.config import Recipe, Setup
from data_agent.lab.data import ImageData
from data_agent.lab.progress import Progress, silent
from data_agent.lab.suite import RECIPES

logger = logging.getLogger(__name__)

_Load = Callable[[Setup, Progress], ImageData]


@dataclass(frozen=True, slots=True)
class Task:
    """A task: its recipe unless told otherwise, and its loader."""

    recipe: Recipe
    load: _Load


def recipe_for(task: str) -> Recipe:
    """The recipe with a task's defaults; change it with `dataclasses.replace`.

    Args:
        task: digits, cifar10, image, or a task of the suite.

    Raises:
        InputError: an unknown task; the message lists those there are.
    """
    if task not in TASKS:
        raise InputError(f"unknown task {task!r}; expected one of {', '.join(TASKS)}.")
    return TASKS[task].recipe


def load_task(recipe: Setup, progress: Progress = silent) -> ImageData:
    """The data of a recipe.

    Raises:
        InputError: data that cannot be found or used; see the message.
    """
    data = TASKS[recipe.task].load(recipe, progress)
    logger.info(
        "%s: %d training samples of %d classes; evaluation on %d (%s).",
        *(recipe.task, len(data.train_labels), data.num_classes, len(data.eval_labels)),
        data.evaluation,
    )
    return data


# The libraries that load data take a second to import; commands that end in an error need not wait.
def _load_digits(recipe: Setup, progress: Progress) -> ImageData:  # noqa: ARG001 - a task's loader
    from data_agent.lab.digits import load_digits

    return load_digits(recipe)


def _load_images(recipe: Setup, progress: Progress) -> ImageData:
    from data_agent.lab.images import load_images

    return load_images(recipe, progress=progress)


def _photos(task: str, data: str | None) -> Recipe:
    """The usual recipe for CIFAR-10 and other small photographs."""
    return Recipe(
        task=task,
        data=data,
        image_size=32,
        model="resnet-18",
        epochs=200,
        batch_size=128,
        learning_rate=0.2,
        augment="crop-flip",
    )


TASKS = {
    "digits": Task(
        Recipe(
            task="digits",
            data=None,
            image_size=8,
            model="cnn",
            epochs=60,
            batch_size=32,
            learning_rate=0.1,
            augment="crop",
            num_threads=1,  # so small a model is slower on two, and far slower on a busy machine
        ),
        _load_digits,
    ),
    "cifar10": Task(_photos("cifar10", "uoft-cs/cifar10"), _load_images),
    "image": Task(_photos("image", None), _load_images),
    **{task: Task(recipe, _load_images) for task, recipe in RECIPES.items()},
}
