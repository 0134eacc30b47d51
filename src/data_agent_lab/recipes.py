"""What a run is: a recipe (task, data, model, optimisation, budget), a method and a seed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Generic, Literal, TypeVar

from data_agent.errors import InputError
from data_agent_lab import rules
from data_agent_lab.methods import check_methods
from data_agent_lab.rules import check_fields, is_count, is_number, is_share
from data_agent_lab.text_recipes import LanguageRecipe, LanguageSetup
from data_agent_lab.training.models import check_model

Optimizer = Literal["sgd", "adamw"]
Schedule = Literal["one-cycle", "cosine"]
Precision = Literal["fp32", "bf16", "fp16"]
Augmentation = Literal["none", "crop", "crop-flip"]

_ADAMW_LIMIT = 0.05  # each of its steps moves every weight by about the rate


@dataclass(frozen=True, kw_only=True, slots=True)
class Setup:
    """What all runs of a task have in common: everything but budget, method and seed.

    Raises:
        InputError: a value outside its range.
    """

    task: str
    """digits (scikit-learn's, embedded), cifar10, image (any images, named by --data), or one of
    the suite's tasks."""
    data: str | None
    """Hub name (owner/name or owner/name:configuration), parquet file, folder of parquet files or
    image folder; None for a task that brings its own."""
    image_column: str | None = None
    """Column with the images; None finds it by its type."""
    label_column: str | None = None
    """Column with the labels; None finds it by its type and name."""
    subset: int | None = None
    """Train on this many samples only, the same ones for every method and seed; None takes all."""
    imbalance: float | None = None
    """Long tail: how many times more samples the first class has than the last, 1 or more; the
    sizes between fall exponentially. The evaluation samples stay as they are."""
    duplicates: float = 0.0
    """Share of the training samples that are near-copies of a few others, in [0, 1)."""
    train_labels: str | None = None
    """PARQUET:COLUMN with other training labels, one for each row of the training data in order;
    None takes the data's own."""
    image_size: int
    """Side of the square images in pixels, 8 or more; all images are resized to it."""
    label_noise: float = 0.0
    """Share of the training labels replaced by a wrong one, in [0, 1)."""
    model: str
    """cnn, resnet-tiny, resnet-small, resnet-18, resnet-34 or resnet-50."""
    width: int | None = None
    """Channels of the model's first stage, 1 or more (a resnet 16); None takes the model's own."""
    epochs: int
    """Passes of the schedule, 1 or more."""
    batch_size: int
    """Samples in a batch, 1 or more."""
    accumulation: int = 1
    """Batches in an optimizer step, 1 or more; an epoch's last group may be smaller."""
    optimizer: Optimizer = "sgd"
    """sgd (Nesterov) or adamw."""
    learning_rate: float
    """Peak learning rate, above 0."""
    schedule: Schedule = "one-cycle"
    """Learning rate over all steps: one-cycle (up for 30 %, then down to zero) or cosine (down)."""
    weight_decay: float = 5e-4
    """Weight decay, 0 or more."""
    momentum: float = 0.9
    """Momentum of sgd, in [0, 1)."""
    label_smoothing: float = 0.0
    """Label smoothing of the training loss, in [0, 1)."""
    precision: Precision = "fp32"
    """Number format of the model's forward and backward pass; fp16 scales its gradients."""
    augment: Augmentation
    """Augmentation of training images: none, crop (shifts by up to an eighth) or crop-flip."""
    num_evaluations: int = 10
    """Evaluations in a run, evenly spread, 1 or more; the last one is at the end."""
    device: str = "auto"
    """auto (an accelerator if there is one), cpu, cuda, cuda:1, mps."""
    num_threads: int | None = None
    """Threads of the CPU's operations, 1 or more; None is torch's choice. Sums depend on it."""

    def __post_init__(self) -> None:
        check_fields(self, _RULES)
        if self.optimizer == "adamw" and self.learning_rate > _ADAMW_LIMIT:
            raise InputError(
                f"--learning-rate is {self.learning_rate}, which suits sgd; adamw diverges above "
                f"{_ADAMW_LIMIT}. Try --learning-rate 0.001."
            )
        check_model(self.model, image_size=self.image_size, width=self.width)


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe(Setup):
    """How every method of a comparison trains: everything but the method and the seed.

    In Python, `data_agent_lab.tasks.recipe_for(task)` makes one with the defaults of its task.

    Raises:
        InputError: a value outside its range.
    """

    keep_ratio: float = 0.5
    """Share of the training samples visited in an epoch, in (0, 1]."""


AnySetup = Setup | LanguageSetup
AnyRecipe = Recipe | LanguageRecipe
R = TypeVar("R", bound=Recipe | LanguageRecipe)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig(Generic[R]):
    """One run.

    Raises:
        InputError: an unknown method or a negative seed.
    """

    recipe: R
    method: str = "data-agent"
    """What chooses the samples: data-agent, random, another method, module:Class for one of your
    own, full (all data), or full-short (all data, stopped where the keep ratio's budget ends)."""
    seed: int = 0
    """Seed of model, selection, augmentation and label noise, 0 or more."""

    def __post_init__(self) -> None:
        check_methods([self.method])
        if self.seed < 0:
            raise InputError(f"--seed is {self.seed}; expected 0 or more.")

    def flat(self) -> dict[str, Any]:
        """All fields by name, as stored in a run's folder."""
        return {**asdict(self.recipe), "method": self.method, "seed": self.seed}


_RULES: rules.Rules = {
    "subset": (lambda v: v is None or is_count(v), "a number of samples, 1 or more"),
    "imbalance": (
        lambda v: v is None or (is_number(v) and v >= 1),
        "a number, 1 or more; 50 makes the first class 50 times as large as the last",
    ),
    "duplicates": (is_share, "a share of the training samples in [0, 1)"),
    "train_labels": (
        lambda v: v is None or (isinstance(v, str) and all(v.rpartition(":"))),
        "PARQUET:COLUMN, a file and one of its columns",
    ),
    "image_size": (lambda v: is_count(v, 8), "a whole number of pixels, 8 or more"),
    "label_noise": rules.LABEL_NOISE,
    "width": (lambda v: v is None or is_count(v), "a number of channels, 1 or more"),
    "keep_ratio": rules.KEEP_RATIO,
    "epochs": (is_count, "a whole number, 1 or more"),
    "batch_size": (is_count, "a whole number, 1 or more"),
    "accumulation": (is_count, "a number of batches, 1 or more"),
    "optimizer": (lambda v: v in ("sgd", "adamw"), "sgd or adamw"),
    "learning_rate": rules.LEARNING_RATE,
    "schedule": (lambda v: v in ("one-cycle", "cosine"), "one-cycle or cosine"),
    "weight_decay": rules.WEIGHT_DECAY,
    "momentum": (is_share, "a number in [0, 1)"),
    "label_smoothing": (is_share, "a number in [0, 1)"),
    "precision": rules.PRECISION,
    "augment": (lambda v: v in ("none", "crop", "crop-flip"), "none, crop or crop-flip"),
    "num_evaluations": (is_count, "a whole number, 1 or more"),
    "num_threads": (lambda v: v is None or is_count(v), "a number of threads, 1 or more"),
}
