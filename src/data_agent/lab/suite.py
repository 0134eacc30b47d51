"""Named tasks for comparing methods: small enough for a CPU core, different enough to disagree.

Each is a regime in which selecting may pay or harm: far from converged, trained until training
data are known by heart, wrong labels at random and by human hand, long tails, near-duplicates,
many classes. Their data lie in folders of parquet files under one root.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from data_agent._errors import InputError
from data_agent.lab.config import Augmentation, Recipe

_ROOT = Path("data")


def _recipe(
    task: str,
    *,
    data: str = "cifar10",
    subset: int = 10240,
    epochs: int = 16,
    label_noise: float = 0.0,
    imbalance: float | None = None,
    duplicates: float = 0.0,
    train_labels: str | None = None,
    augment: Augmentation = "crop-flip",
) -> Recipe:
    return Recipe(
        task=task,
        data=str(_ROOT / data),
        subset=subset,
        imbalance=imbalance,
        duplicates=duplicates,
        train_labels=None if train_labels is None else str(_ROOT / train_labels),
        image_size=16,
        label_noise=label_noise,
        model="resnet-small",
        epochs=epochs,
        batch_size=128,
        learning_rate=0.2,
        augment=augment,
        num_evaluations=4,
        num_threads=1,
    )


RECIPES: Mapping[str, Recipe] = {
    recipe.task: recipe
    for recipe in (
        _recipe("cifar10-underfit", epochs=32),
        _recipe("cifar10-saturate", subset=5120, epochs=24, augment="none"),
        _recipe("cifar10-noise30", epochs=12, augment="none", label_noise=0.3),
        _recipe("cifar10n-worse", train_labels="cifar10n/train.parquet:worse_label"),
        _recipe("cifar10-long-tail", imbalance=50.0),
        _recipe("cifar10-duplicates", epochs=24, duplicates=0.6),
        _recipe("tiny-imagenet", data="tiny_imagenet_32"),
    )
}
"""The tasks by name, with their data under the folder `data`."""

SUITES: Mapping[str, Sequence[str]] = {
    "quick": ("cifar10-underfit", "cifar10-noise30", "cifar10-long-tail"),
    "core": tuple(RECIPES),
}
"""Names of tasks, by suite."""


def suite_recipes(
    suite: str | None, *, tasks: Sequence[str] | None = None, root: Path = _ROOT
) -> dict[str, Recipe]:
    """Recipes of a suite's tasks, by name, in the order of the suite or of `tasks`.

    Args:
        suite: a key of `SUITES`; None takes `tasks` from all of them.
        tasks: names; None takes all of the suite.
        root: folder that holds cifar10, cifar10n and tiny_imagenet_32.

    Raises:
        InputError: an unknown suite or task, a task named twice, or data that are not there.
    """
    if suite is not None and suite not in SUITES:
        raise InputError(f"suite {suite!r} is unknown; expected one of {', '.join(SUITES)}.")
    known = tuple(RECIPES) if suite is None else SUITES[suite]
    names = known if tasks is None else tasks
    for name in names:
        if name not in known:
            where = "" if suite is None else f" in suite {suite!r}"
            raise InputError(f"there is no task {name!r}{where}; expected {', '.join(known)}.")
        if names.count(name) > 1:
            raise InputError(f"--tasks names {name!r} twice; name each task once.")
    recipes = {name: _under(root, RECIPES[name]) for name in names}
    for recipe in recipes.values():
        _check_data(recipe)
    return recipes


def _under(root: Path, recipe: Recipe) -> Recipe:
    """The recipe with its data under another root."""

    def moved(path: str) -> str:
        return str(root / Path(path).relative_to(_ROOT))

    return replace(
        recipe,
        data=recipe.data and moved(recipe.data),
        train_labels=recipe.train_labels and moved(recipe.train_labels),
    )


def _check_data(recipe: Recipe) -> None:
    paths = [Path(path) for path in (recipe.data,) if path]
    if recipe.train_labels is not None:
        paths.append(Path(recipe.train_labels.rpartition(":")[0]).parent)
    for path in paths:
        if not path.is_dir():
            raise InputError(
                f"the task {recipe.task} needs the folder {path}, which does not exist. Name the "
                "folder that holds it with --data-root."
            )
