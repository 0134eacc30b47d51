"""The tasks of the lab, in one table: their defaults and how their data is loaded."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from data_agent.errors import InputError
from data_agent_lab.progress import Progress, silent
from data_agent_lab.recipes import ImageRecipe, Kind, Recipe, TextRecipe
from data_agent_lab.suite import RECIPES

logger = logging.getLogger(__name__)


class Samples(Protocol):
    """The data of a task, loaded: `ImageData` or `LanguageData`."""

    @property
    def num_train(self) -> int:
        """Number of training samples."""
        ...

    @property
    def num_eval(self) -> int:
        """Number of evaluation samples."""
        ...

    def in_words(self) -> str:
        """What there is."""
        ...


_Load = Callable[[Any, Progress], Samples]


@dataclass(frozen=True, slots=True)
class Task:
    """A task: its recipe unless told otherwise, and its loader."""

    recipe: Recipe
    load: _Load


def recipe_for(task: str) -> Recipe:
    """The recipe with a task's defaults; change it with `dataclasses.replace`.

    A `ImageRecipe` of an image task, a `TextRecipe` of a language task.

    Args:
        task: digits, cifar10, image, sft, lm, text-classification, or a task of the suite.

    Raises:
        InputError: an unknown task; the message lists those there are.
    """
    if task not in TASKS:
        raise InputError(f"unknown task {task!r}; expected one of {', '.join(TASKS)}.")
    return TASKS[task].recipe


def load_task(recipe: Recipe, progress: Progress = silent) -> Samples:
    """The data of a recipe.

    Raises:
        InputError: data that cannot be found or used; see the message.
    """
    data = TASKS[recipe.task].load(recipe, progress)
    logger.info("%s: %s.", recipe.task, data.in_words())
    return data


# The libraries that load data take a second to import; commands that end in an error need not wait.
def _load_digits(recipe: ImageRecipe, progress: Progress) -> Samples:  # noqa: ARG001 - a task's loader
    from data_agent_lab.data.digits import load_digits

    return load_digits(recipe)


def _load_images(recipe: ImageRecipe, progress: Progress) -> Samples:
    from data_agent_lab.data.images import load_images

    return load_images(recipe, progress=progress)


def _load_language(recipe: TextRecipe, progress: Progress) -> Samples:
    try:
        from data_agent_lab.data.texts import load_language
    except ModuleNotFoundError as error:
        if error.name not in ("transformers", "trl", "peft", "accelerate"):
            raise
        raise InputError(
            f"--task {recipe.task} trains with Hugging Face's libraries, and {error.name} is not "
            "installed. Run: pip install 'data-agent[lab,trl]'"
        ) from error

    return load_language(recipe, progress)


def _text(kind: Kind, *, model: str) -> TextRecipe:
    """The usual recipe for a small model, trained from scratch."""
    return TextRecipe(
        task=kind,
        kind=kind,
        data=None,
        model=model,
        epochs=3,
        batch_size=16,
        learning_rate=1e-3,
    )


def _photos(task: str, data: str | None) -> ImageRecipe:
    """The usual recipe for CIFAR-10 and other small photographs."""
    return ImageRecipe(
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
        ImageRecipe(
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
    "sft": Task(_text("sft", model="llama-128x2"), _load_language),
    "lm": Task(_text("lm", model="llama-128x2"), _load_language),
    "text-classification": Task(_text("text-classification", model="bert-128x2"), _load_language),
    **{
        task: Task(recipe, _load_images if isinstance(recipe, ImageRecipe) else _load_language)
        for task, recipe in RECIPES.items()
    },
}
