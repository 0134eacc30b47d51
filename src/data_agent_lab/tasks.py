"""The tasks of the lab in one table: their recipes, the suites they form, how their data is loaded.

A task of a suite is small enough for a processor core, and each is a regime in which selecting may
pay or harm: far from converged, trained until the training data are memorised, wrong labels (random
or by human hand), long tails, near-duplicates, foreign images, many classes; small language models
from scratch, on one source or on four of which one is wanted; blood cells to detect; prompts to
roll out. Their data lie in folders of parquet files under one root, but for prompts, which are
made.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_agent.errors import InputError
from data_agent_lab.detection_recipe import DetectionRecipe
from data_agent_lab.progress import Progress, silent
from data_agent_lab.recipes import ImageRecipe, PromptRecipe, Recipe, TextRecipe
from data_agent_lab.rules import check_list, unknown

if TYPE_CHECKING:
    from data_agent_lab.data.boxes import DetectionData
    from data_agent_lab.data.image_data import ImageData
    from data_agent_lab.data.problems import ProblemData
    from data_agent_lab.data.texts import LanguageData

logger = logging.getLogger(__name__)

DEFAULT_TASK = "digits"
DATA_ROOT = Path("data")
_CIFAR10 = str(DATA_ROOT / "cifar10")
_WORSE = str(DATA_ROOT / "cifar10n/train.parquet:worse_label")
_RANDOM_HUMAN = str(DATA_ROOT / "cifar10n/train.parquet:random_label1")
_AGGREGATE = str(DATA_ROOT / "cifar10n/train.parquet:aggre_label")
_MNIST = str(DATA_ROOT / "mnist")
_TINY_IMAGENET = str(DATA_ROOT / "tiny_imagenet_32")
_INSTRUCTIONS = tuple(
    str(DATA_ROOT / name) for name in ("gsm8k", "code_alpaca_2k", "alpaca_1k", "t0_mix")
)

_PHOTOS = ImageRecipe(
    task="image",
    data=None,
    image_size=32,
    model="resnet-18",
    epochs=200,
    batch_size=128,
    learning_rate=0.2,
    augment="crop-flip",
)
_DIGITS = replace(
    _PHOTOS,
    task="digits",
    image_size=8,
    model="cnn",
    epochs=60,
    batch_size=32,
    learning_rate=0.1,
    augment="crop",
    num_threads=1,  # so small a model is slower on two, and far slower on a busy machine
)
_TEXTS = TextRecipe(
    task="sft",
    kind="sft",
    data=None,
    model="llama-128x2",
    epochs=3,
    batch_size=16,
    learning_rate=1e-3,
)
_SMALL_PHOTOS = replace(
    _PHOTOS,
    data=_CIFAR10,
    subset=10240,
    image_size=16,
    model="resnet-small",
    epochs=16,
    num_evaluations=4,
    num_threads=1,
)
_SMALL_CLASSIFIER = TextRecipe(
    task="sst2",
    kind="text-classification",
    data=str(DATA_ROOT / "sst2"),
    subset=8192,
    model="bert-128x2",
    max_length=64,
    epochs=6,
    batch_size=32,
    learning_rate=3e-4,
    num_threads=1,
)
_SMALL_LANGUAGE_MODEL = replace(
    _TEXTS,
    subset=2048,
    eval_subset=512,
    model="llama-64x2",
    vocab_size=1024,  # the logits are most of the work
    epochs=4,
    learning_rate=2e-3,
    num_threads=1,
)
_BOXES = DetectionRecipe(
    task="detection", data=None, epochs=40, batch_size=8, learning_rate=4e-3, num_threads=1
)
_SPELLING = PromptRecipe(
    task="reasoning-spell-backward", problems="spell_backward", warm_up_steps=130
)


def _mixture(task: str, data: str, *, eval_subset: int | None = None) -> TextRecipe:
    """Four sources in equal parts, of which one is wanted and a quarter of its rows trusted."""
    return replace(
        _SMALL_LANGUAGE_MODEL,
        task=task,
        data=data,
        eval_subset=eval_subset,
        foreign_data=",".join(name for name in _INSTRUCTIONS if name != data),
        foreign_share=0.75,
        trusted_rows=128,
        epochs=8,
    )


_small = partial(replace, _SMALL_PHOTOS)
_language = partial(replace, _SMALL_LANGUAGE_MODEL)
_trusted = partial(replace, _SMALL_PHOTOS, trusted_rows=500)


TASKS: dict[str, Recipe] = {
    recipe.task: recipe
    for recipe in (
        _DIGITS,
        replace(_PHOTOS, task="cifar10", data="uoft-cs/cifar10"),
        _PHOTOS,
        _TEXTS,
        _BOXES,
        replace(_TEXTS, task="lm", kind="lm"),
        replace(_TEXTS, task="text-classification", kind="text-classification", model="bert-128x2"),
        _small(task="cifar10-underfit", epochs=32),
        _small(task="cifar10-saturate", subset=5120, epochs=24, augment="none"),
        _small(task="cifar10-noise30", epochs=12, augment="none", label_noise=0.3),
        _small(task="cifar10n-worse", train_labels=_WORSE),
        _small(task="cifar10-long-tail", imbalance=50.0),
        _small(task="cifar10-duplicates", epochs=24, duplicates=0.6),
        _small(task="tiny-imagenet", data=_TINY_IMAGENET),
        _small(task="mnist", data=_MNIST, epochs=8, augment="none"),
        _small(task="mnist-noise40", data=_MNIST, epochs=12, augment="none", label_noise=0.4),
        _small(task="cifar10-noise40", epochs=12, augment="none", label_noise=0.4),
        _small(task="tiny-imagenet-noise30", data=_TINY_IMAGENET, label_noise=0.3),
        _small(task="tiny-imagenet-long-tail", data=_TINY_IMAGENET, imbalance=20.0),
        _trusted(task="trusted-clean"),
        _trusted(task="trusted-noise30", label_noise=0.3),
        _trusted(task="trusted-noise40", label_noise=0.4),
        _trusted(task="trusted-worse", train_labels=_WORSE),
        _trusted(task="trusted-aggregate", train_labels=_AGGREGATE),
        _trusted(task="trusted-tail50", imbalance=50.0),
        _trusted(task="trusted-tail20", imbalance=20.0),
        _trusted(task="trusted-digits", foreign_data=_MNIST, foreign_share=0.5),
        _trusted(task="trusted-photos", foreign_data=_TINY_IMAGENET, foreign_share=0.5),
        _trusted(task="trusted-duplicates", duplicates=0.6),
        _trusted(task="trusted-human", train_labels=_RANDOM_HUMAN),
        _trusted(task="trusted-mnist-tail", data=_MNIST, imbalance=100.0, trusted_rows=200),
        _trusted(
            task="trusted-tiny-digits",
            data=_TINY_IMAGENET,
            foreign_data=_MNIST,
            foreign_share=0.5,
            trusted_rows=850,  # five of each class
        ),
        _small(task="foreign-digits", foreign_data=_MNIST, foreign_share=0.5),
        _small(task="foreign-photos", foreign_data=_TINY_IMAGENET, foreign_share=0.5),
        _small(
            task="foreign-tiny-digits",
            data=_TINY_IMAGENET,
            foreign_data=_MNIST,
            foreign_share=0.5,
        ),
        _small(
            task="foreign-mnist",
            data=_MNIST,
            epochs=8,
            augment="none",
            foreign_data=_TINY_IMAGENET,
            foreign_share=0.5,
        ),
        _SMALL_CLASSIFIER,
        replace(_SMALL_CLASSIFIER, task="sst2-noise30", label_noise=0.3),
        replace(_SMALL_CLASSIFIER, task="trusted-sst2", label_noise=0.3, trusted_rows=500),
        _language(task="t0-mix", data=str(DATA_ROOT / "t0_mix")),
        _language(task="gsm8k", data=str(DATA_ROOT / "gsm8k")),
        _language(  # its rows are paragraphs
            task="shakespeare",
            kind="lm",
            data=str(DATA_ROOT / "tiny_shakespeare"),
            subset=4096,
            eval_subset=None,
            max_length=128,
        ),
        _mixture("mix-gsm8k", _INSTRUCTIONS[0], eval_subset=512),
        _mixture("mix-code", _INSTRUCTIONS[1]),
        _mixture("mix-alpaca", _INSTRUCTIONS[2]),
        replace(_BOXES, task="bccd", data=str(DATA_ROOT / "bccd")),
        *(PromptRecipe(task=f"string-world-{world}", world=world) for world in range(10)),
        PromptRecipe(task="string-world"),
        _SPELLING,
        PromptRecipe(
            task="reasoning-palindrome", problems="palindrome_generation", warm_up_steps=150
        ),
        PromptRecipe(task="prompts-few", world=10, num_prompts=512),
        PromptRecipe(task="prompts-hopeless", world=10, warm_up_steps=0, epochs=5),
        replace(_SPELLING, task="prompts-solved", world=10, warm_up_steps=600, epochs=10),
    )
}
"""The recipe of each task, with the data of the suites' tasks under the folder `data`."""

SUITES: dict[str, Sequence[str]] = {
    "quick": ("cifar10-underfit", "cifar10-noise30", "cifar10-long-tail"),
    "core": (
        *("cifar10-underfit", "cifar10-saturate", "cifar10-noise30", "cifar10n-worse"),
        *("cifar10-long-tail", "cifar10-duplicates", "tiny-imagenet", "sst2"),
    ),
    "held-out": (
        *("mnist", "mnist-noise40", "cifar10-noise40", "tiny-imagenet-noise30"),
        "tiny-imagenet-long-tail",
    ),
    "trusted": (
        *("trusted-clean", "trusted-noise30", "trusted-noise40", "trusted-worse"),
        *("trusted-aggregate", "trusted-tail50", "trusted-tail20", "trusted-digits"),
        *("trusted-photos", "trusted-duplicates"),
    ),
    "foreign": ("foreign-digits", "foreign-photos", "foreign-tiny-digits", "foreign-mnist"),
    "mixtures": ("mix-gsm8k", "mix-code"),
    "held-out-trusted": (
        *("trusted-human", "trusted-mnist-tail", "trusted-tiny-digits", "trusted-sst2"),
        "mix-alpaca",
    ),
    "detection": ("bccd",),
    "prompts": tuple(f"string-world-{world}" for world in range(5, 10)),
    "prompts-limits": ("prompts-few", "prompts-hopeless", "prompts-solved"),
    "reasoning": ("reasoning-spell-backward", "reasoning-palindrome"),
    "language": ("sst2", "sst2-noise30", "t0-mix", "gsm8k", "shakespeare"),
}
"""Names of tasks, by suite. Nothing was ever chosen by a run on a task of held-out or prompts, nor
of held-out-trusted, whose five were chosen before any of them was run, nor of foreign-photos,
foreign-tiny-digits and foreign-mnist.

In prompts-limits choosing has little to go by: prompts that are few and seen often, or none of
which is ever solved, or all of which are.
"""


def recipe_for(task: str) -> Recipe:
    """The recipe with a task's defaults; change it with `dataclasses.replace`."""
    if task not in TASKS:
        raise unknown("task", task, TASKS)
    return TASKS[task]


def suite_recipes(
    suite: str | None, *, tasks: Sequence[str] | None = None, root: Path = DATA_ROOT
) -> list[Recipe]:
    """Recipes of a suite's tasks, in the order of the suite or of `tasks`.

    Args:
        suite: a key of `SUITES`; None takes `tasks` from all of them.
        tasks: names; None takes all of the suite.
        root: folder that holds the folders with the tasks' data (cifar10, sst2, ...).

    Raises:
        InputError: an unknown suite or task, a task named twice, or data that are not there.
    """
    if suite is not None and suite not in SUITES:
        raise unknown("suite", suite, SUITES)
    suites = SUITES.values() if suite is None else [SUITES[suite]]
    known = list(dict.fromkeys(task for names in suites for task in names))
    names = known if tasks is None else tasks
    for name in names:
        if name not in known:
            raise unknown("task" if suite is None else f"suite {suite!r}: task", name, known)
    check_list("--tasks", names)
    return [_under(root, TASKS[name]) for name in names]


def _under(root: Path, recipe: Recipe) -> Recipe:
    """The recipe with its data under another root, where they must be."""
    moved: dict[str, str] = {}
    for name in ("data", "train_labels", "foreign_data", "trusted"):
        if (paths := getattr(recipe, name, None)) is not None:
            places = [root / Path(path).relative_to(DATA_ROOT) for path in paths.split(",")]
            for place in places:
                folder = place.parent if name == "train_labels" else place  # of FILE:COLUMN
                if not folder.is_dir():
                    raise InputError(
                        f"the task {recipe.task} needs the folder {folder}, which does not exist. "
                        "Name the folder that holds it with --data-root; docs/compare/data.md says "
                        "what belongs there."
                    )
            moved[name] = ",".join(map(str, places))
    return replace(recipe, **moved)


def load_task(
    recipe: Recipe, progress: Progress = silent
) -> ImageData | LanguageData | DetectionData | ProblemData:
    """The data of a recipe; `InputError` if they cannot be found or used."""
    assert isinstance(recipe, ImageRecipe | TextRecipe | DetectionRecipe | PromptRecipe)
    # What loads data takes a second to import; commands that end in an error need not wait for it.
    if isinstance(recipe, TextRecipe):
        from data_agent_lab.data.texts import load_language

        data = load_language(recipe, progress)
    elif isinstance(recipe, PromptRecipe):
        from data_agent_lab.data.makers import load_problems

        data = load_problems(recipe)
    elif isinstance(recipe, DetectionRecipe):
        from data_agent_lab.data.boxes import load_detection

        data = load_detection(recipe, progress=progress)
    elif recipe.task == "digits":
        from data_agent_lab.data.digits import load_digits

        data = load_digits(recipe)
    else:
        from data_agent_lab.data.images import load_images

        data = load_images(recipe, progress=progress)
    logger.info("%s: %s.", recipe.task, data.in_words())
    return data


def load_kept(
    recipe: Recipe, progress: Progress = silent
) -> ImageData | LanguageData | DetectionData:
    """As `load_task`, with the training samples only that a run of the recipe trains on."""
    return kept(recipe, load_task(recipe, progress))


def kept(recipe: Recipe, data: Any) -> Any:
    """Of a recipe's loaded data what a run trains on."""
    if recipe.keep_index is None:
        return data
    from data_agent_lab.runs.samples import kept_rows  # imports pyarrow

    return data.at(kept_rows(Path(recipe.keep_index), data.num_train, data.num_trusted))
