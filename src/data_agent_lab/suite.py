"""Named tasks for comparing methods: small enough for a CPU core, different enough to disagree.

Each image task is a regime in which selecting may pay or harm: far from converged, trained until
training data are known by heart, wrong labels at random and by human hand, long tails,
near-duplicates, many classes. The language tasks train small models from scratch. All data lie in
folders of parquet files under one root.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from data_agent.errors import InputError
from data_agent_lab.recipes import Augmentation, ImageRecipe, Kind, Recipe, TextRecipe

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
) -> ImageRecipe:
    return ImageRecipe(
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


def _classify(task: str, *, label_noise: float = 0.0) -> TextRecipe:
    return TextRecipe(
        task=task,
        kind="text-classification",
        data=str(_ROOT / "sst2"),
        subset=8192,
        label_noise=label_noise,
        model="bert-128x2",
        max_length=64,
        epochs=6,
        batch_size=32,
        learning_rate=3e-4,
        num_threads=1,
    )


def _language_model(
    task: str,
    *,
    kind: Kind,
    data: str,
    max_length: int,
    subset: int = 2048,
    eval_subset: int | None = 512,
) -> TextRecipe:
    return TextRecipe(
        task=task,
        kind=kind,
        data=str(_ROOT / data),
        subset=subset,
        eval_subset=eval_subset,
        model="llama-64x2",
        vocab_size=1024,  # the logits are most of the work
        max_length=max_length,
        epochs=4,
        batch_size=16,
        learning_rate=2e-3,
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
        _recipe("mnist", data="mnist", epochs=8, augment="none"),
        _recipe("mnist-noise40", data="mnist", epochs=12, augment="none", label_noise=0.4),
        _recipe("cifar10-noise40", epochs=12, augment="none", label_noise=0.4),
        _recipe("tiny-imagenet-noise30", data="tiny_imagenet_32", label_noise=0.3),
        _recipe("tiny-imagenet-long-tail", data="tiny_imagenet_32", imbalance=20.0),
        _classify("sst2"),
        _classify("sst2-noise30", label_noise=0.3),
        _language_model("t0-mix", kind="sft", data="t0_mix", max_length=256),
        _language_model("gsm8k", kind="sft", data="gsm8k", max_length=256),
        _language_model(
            "shakespeare",
            kind="lm",
            data="tiny_shakespeare",
            max_length=128,
            subset=4096,  # rows of text, a paragraph each
            eval_subset=None,
        ),
    )
}
"""The tasks by name, with their data under the folder `data`."""

SUITES: Mapping[str, Sequence[str]] = {
    "quick": ("cifar10-underfit", "cifar10-noise30", "cifar10-long-tail"),
    "core": (
        *("cifar10-underfit", "cifar10-saturate", "cifar10-noise30", "cifar10n-worse"),
        *("cifar10-long-tail", "cifar10-duplicates", "tiny-imagenet", "sst2"),
    ),
    "held-out": (
        *("mnist", "mnist-noise40", "cifar10-noise40", "tiny-imagenet-noise30"),
        "tiny-imagenet-long-tail",
    ),
    "language": tuple(t for t, recipe in RECIPES.items() if isinstance(recipe, TextRecipe)),
}
"""Names of tasks, by suite. Nothing of the agent was ever chosen by a run on a held-out task."""


def suite_recipes(
    suite: str | None, *, tasks: Sequence[str] | None = None, root: Path = _ROOT
) -> dict[str, Recipe]:
    """Recipes of a suite's tasks, by name, in the order of the suite or of `tasks`.

    Args:
        suite: a key of `SUITES`; None takes `tasks` from all of them.
        tasks: names; None takes all of the suite.
        root: folder that holds the folders with the tasks' data (cifar10, sst2, ...).

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

    recipe = replace(recipe, data=recipe.data and moved(recipe.data))
    if isinstance(recipe, ImageRecipe) and recipe.train_labels is not None:
        recipe = replace(recipe, train_labels=moved(recipe.train_labels))
    return recipe


def _check_data(recipe: Recipe) -> None:
    paths = [Path(path) for path in (recipe.data,) if path]
    if isinstance(recipe, ImageRecipe) and recipe.train_labels is not None:
        paths.append(Path(recipe.train_labels.rpartition(":")[0]).parent)
    for path in paths:
        if not path.is_dir():
            raise InputError(
                f"the task {recipe.task} needs the folder {path}, which does not exist. Name the "
                "folder that holds it with --data-root."
            )
