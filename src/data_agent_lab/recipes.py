"""What a run is: a recipe (task, data, model, optimisation), a method, a keep ratio and a seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Generic, Literal, TypeVar

from data_agent.errors import InputError
from data_agent_lab.methods import check_methods
from data_agent_lab.rules import Rules, check_fields, flag_of, is_count, is_number, is_share
from data_agent_lab.training.models import check_model

Optimizer = Literal["sgd", "adamw"]
Schedule = Literal["one-cycle", "cosine"]
Precision = Literal["fp32", "bf16", "fp16"]
Augmentation = Literal["none", "crop", "crop-flip"]
Kind = Literal["sft", "lm", "text-classification"]

_ADAMW_LIMIT = 0.05  # each of its steps moves every weight by about the rate


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """How every method of a comparison trains: what image and text tasks have in common.

    In Python, `data_agent_lab.tasks.recipe_for(task)` makes one with the defaults of its task.

    Raises:
        InputError: a value outside its range.
    """

    task: str
    """Name of the task."""
    data: str | None
    """Where the data are."""
    label_column: str | None = None
    """Column with the labels; None finds it by its type and name."""
    subset: int | None = None
    """Train on this many samples only, the same ones for every method and seed; None takes all."""
    label_noise: float = 0.0
    """Share of the training labels replaced by a wrong one, in [0, 1)."""
    model: str
    """Name of the model."""
    epochs: int
    """Passes of the schedule, 1 or more."""
    batch_size: int
    """Samples in a batch, 1 or more."""
    accumulation: int = 1
    """Batches in an optimizer step, 1 or more; an epoch's last group may be smaller."""
    learning_rate: float
    """Peak learning rate, above 0."""
    weight_decay: float = 0.0
    """Weight decay, 0 or more."""
    precision: Precision = "fp32"
    """Number format of the model's forward and backward pass; fp16 scales its gradients."""
    num_evaluations: int = 3
    """Evaluations in a run, evenly spread, 1 or more; the last one is at the end."""
    device: str = "auto"
    """auto (an accelerator if there is one), cpu, cuda, cuda:1, mps."""
    num_threads: int | None = None
    """Threads of the CPU's operations, 1 or more; None is torch's choice. Sums depend on it."""

    def __post_init__(self) -> None:
        check_fields(self, _RULES)


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageRecipe(Recipe):
    """How every method trains on images.

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
    model: str
    """cnn, resnet-tiny, resnet-small, resnet-18, resnet-34 or resnet-50."""
    width: int | None = None
    """Channels of the model's first stage, 1 or more (a resnet 16); None takes the model's own."""
    optimizer: Optimizer = "sgd"
    """sgd (Nesterov) or adamw."""
    schedule: Schedule = "one-cycle"
    """Learning rate over all steps: one-cycle (up for 30 %, then down to zero) or cosine (down)."""
    weight_decay: float = 5e-4
    """Weight decay, 0 or more."""
    momentum: float = 0.9
    """Momentum of sgd, in [0, 1)."""
    label_smoothing: float = 0.0
    """Label smoothing of the training loss, in [0, 1)."""
    augment: Augmentation
    """Augmentation of training images: none, crop (shifts by up to an eighth) or crop-flip."""
    num_evaluations: int = 10
    """Evaluations in a run, evenly spread, 1 or more; the last one is at the end."""

    def __post_init__(self) -> None:
        check_fields(self, _RULES)
        if self.optimizer == "adamw" and self.learning_rate > _ADAMW_LIMIT:
            raise InputError(
                f"--learning-rate is {self.learning_rate}, which suits sgd; adamw diverges above "
                f"{_ADAMW_LIMIT}. Try --learning-rate 0.001."
            )
        check_model(self.model, image_size=self.image_size, width=self.width)


@dataclass(frozen=True, kw_only=True, slots=True)
class TextRecipe(Recipe):
    """How every method trains on text.

    Raises:
        InputError: a value outside its range, or of another kind of task.
    """

    task: str
    """sft (instruction tuning), lm (plain text), text-classification, or a task of the suite."""
    kind: Kind
    """What is learned: sft, lm or text-classification; a task has its own."""
    data: str | None
    """Hub name (owner/name or owner/name:configuration), parquet file, JSON lines, or a folder of
    them with split names (train.parquet, validation.parquet, test.jsonl)."""
    prompt_column: str | None = None
    """Column with prompts; with --completion-column, where the usual layouts are not found."""
    completion_column: str | None = None
    """Column with what the model shall answer."""
    text_column: str | None = None
    """Column with plain text, or with the text to classify."""
    label_column: str | None = None
    """Column with the classes of text-classification."""
    eval_subset: int | None = None
    """Evaluate on this many held-out rows only; None takes all."""
    label_noise: float = 0.0
    """text-classification: share of the training labels replaced by a wrong one, in [0, 1)."""
    model: str
    """Hub name or local path of a model, or one that is built here and trained from scratch:
    llama-HIDDENxLAYERS (sft, lm), bert-HIDDENxLAYERS (text-classification), e.g. llama-128x2."""
    tokenizer: str | None = None
    """Hub name or local path; None is the model's own, or for a model trained from scratch one
    trained on the training texts."""
    vocab_size: int = 4096
    """Tokens of a tokenizer that is trained here, 300 or more."""
    max_length: int = 256
    """Tokens of a sequence, 2 or more; longer ones are cut at the end."""
    packing: bool = False
    """sft: join short sequences to packs of up to --max-length tokens; a pack is then a sample."""
    lora_rank: int | None = None
    """Train low-rank adapters of this rank on all linear layers; None trains the whole model."""
    gradient_checkpointing: bool = False
    """Compute activations a second time instead of keeping them."""
    learning_rate: float
    """Peak learning rate of AdamW, above 0; 3 % of the steps lead up to it, a cosine down from."""
    mmlu: str | None = None
    """Folder with MMLU (dev.parquet, test.parquet), on which the trained model is evaluated."""
    harness_tasks: str | None = None
    """Further tasks of the evaluation harness (lm-eval) by name, separated by commas."""
    harness_limit: int | None = None
    """Evaluate on so many items of each subject or harness task only, 1 or more; None takes all."""

    def __post_init__(self) -> None:
        check_fields(self, _RULES)
        for name, kind in _ONLY_FOR.items():
            default = next(field.default for field in fields(self) if field.name == name)
            if getattr(self, name) != default and self.kind != kind:
                raise InputError(f"{flag_of(name)} is for {kind}; {self.task} is {self.kind}.")
        if (self.mmlu or self.harness_tasks) and self.kind == "text-classification":
            raise InputError(
                "--mmlu and --harness-tasks ask a language model for the likelihood of answers; "
                "a classifier has none. Leave them out."
            )


R = TypeVar("R", bound=Recipe)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig(Generic[R]):
    """One run.

    Raises:
        InputError: an unknown method, a keep ratio outside (0, 1], or a negative seed.
    """

    recipe: R
    method: str = "data-agent"
    """What chooses the samples: data-agent, random, another method, module:Class for one of your
    own, full (all data), or full-short (all data, stopped where the keep ratio's budget ends)."""
    keep_ratio: float = 0.5
    """Share of the training samples visited in an epoch, in (0, 1]."""
    seed: int = 0
    """Seed of model, selection, augmentation and label noise, 0 or more."""

    def __post_init__(self) -> None:
        check_methods([self.method])
        check_fields(self, _RULES)

    def flat(self) -> dict[str, Any]:
        """All fields by name, as stored in a run's folder."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "recipe"}
        return {**asdict(self.recipe), **own}


_ANY_COUNT = (lambda v: v is None or is_count(v), "a whole number, 1 or more")
_COUNT = (is_count, "a whole number, 1 or more")
_RULES: Rules = {
    "method": (lambda v: isinstance(v, str), "a name"),
    "keep_ratio": (
        lambda v: is_number(v) and 0 < v <= 1,
        "a share of the samples in (0, 1]; 0.5 visits half of them in an epoch",
    ),
    "seed": (lambda v: is_count(v, 0), "a whole number, 0 or more"),
    "kind": (
        lambda v: v in ("sft", "lm", "text-classification"),
        "sft, lm or text-classification",
    ),
    "subset": _ANY_COUNT,
    "eval_subset": _ANY_COUNT,
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
    "label_noise": (is_share, "a share of the labels in [0, 1)"),
    "width": (lambda v: v is None or is_count(v), "a number of channels, 1 or more"),
    "vocab_size": (lambda v: is_count(v, 300), "a whole number, 300 or more"),
    "max_length": (lambda v: is_count(v, 2), "a number of tokens, 2 or more"),
    "lora_rank": _ANY_COUNT,
    "epochs": _COUNT,
    "batch_size": _COUNT,
    "accumulation": (is_count, "a number of batches, 1 or more"),
    "optimizer": (lambda v: v in ("sgd", "adamw"), "sgd or adamw"),
    "learning_rate": (lambda v: is_number(v) and v > 0, "a number above 0"),
    "schedule": (lambda v: v in ("one-cycle", "cosine"), "one-cycle or cosine"),
    "weight_decay": (lambda v: is_number(v) and v >= 0, "a number, 0 or more"),
    "momentum": (is_share, "a number in [0, 1)"),
    "label_smoothing": (is_share, "a number in [0, 1)"),
    "precision": (lambda v: v in ("fp32", "bf16", "fp16"), "fp32, bf16 or fp16"),
    "augment": (lambda v: v in ("none", "crop", "crop-flip"), "none, crop or crop-flip"),
    "num_evaluations": _COUNT,
    "harness_limit": _ANY_COUNT,
    "num_threads": (lambda v: v is None or is_count(v), "a number of threads, 1 or more"),
}
_ONLY_FOR: Mapping[str, Kind] = {
    "prompt_column": "sft",
    "completion_column": "sft",
    "packing": "sft",
    "label_noise": "text-classification",
    "label_column": "text-classification",
}
