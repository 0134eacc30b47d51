"""What a run is: a recipe (task, data, model, optimisation), a method, a keep ratio and a seed.

The command line makes its flags of these fields, and a field's type says which values are valid.
Nothing here imports torch, so that `--help` is quick.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any, Generic, Literal, TypeVar

from data_agent.errors import InputError
from data_agent_lab.image_models import check_model
from data_agent_lab.methods import check_method, ignores_keep_ratio
from data_agent_lab.rules import (
    Count,
    NotNegative,
    Positive,
    Rule,
    Share,
    at_least,
    check_fields,
    flag_of,
    number,
)

Optimizer = Literal["sgd", "adamw"]
Schedule = Literal["one-cycle", "cosine"]
Precision = Literal["fp32", "bf16", "fp16"]
Augmentation = Literal["none", "crop", "crop-flip"]
Problems = Literal["string-world", "spell_backward", "palindrome_generation"]
Kind = Literal["sft", "lm", "text-classification"]

KeepRatio = Annotated[float, number(lambda v: 0 < v <= 1, "a share of the samples in (0, 1]")]
Imbalance = Annotated[float, number(lambda v: v >= 1, "a number, 1 or more, such as 50")]
FileAndColumn = Annotated[
    str, Rule(lambda v: all(v.rpartition(":")), "PARQUET:COLUMN, a file and one of its columns")
]

_ADAMW_LIMIT = 0.05  # each of its steps moves every weight by about the rate


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """How every method of a comparison trains: what image and text tasks have in common.

    In Python, `data_agent_lab.tasks.recipe_for(task)` makes one with the defaults of its task.

    Raises:
        InputError: a value outside its range.
    """

    task: str
    data: str | None
    label_column: str | None = None
    """Column with the labels; None finds it by its type and name."""
    subset: Count | None = None
    """Train on this many samples only, the same ones for every method and seed; None takes all."""
    label_noise: Share = 0.0
    """Share of the training labels replaced by a wrong one, in [0, 1)."""
    trusted_rows: Annotated[int, at_least(0)] = 0
    """Training samples that are trusted, 0 or more: as many of each class as can be, with their
    true labels where these are known. Every method has them in each epoch after the first pass."""
    trusted: str | None = None
    """Trusted samples of their own, as --data and of its layout (of splits the one called train);
    they are added to the training samples of every method. With it --trusted-rows stays 0."""
    keep_index: str | None = None
    """Parquet or CSV file whose column index names the training samples to keep, as an audit of a
    run on the same data writes it; None keeps all."""
    model: str
    epochs: Count
    """Passes of the schedule, 1 or more."""
    batch_size: Count
    """Samples in a batch, 1 or more."""
    accumulation: Count = 1
    """Batches in an optimizer step, 1 or more; an epoch's last group may be smaller."""
    learning_rate: Positive
    """Peak learning rate, above 0."""
    weight_decay: NotNegative = 0.0
    """Weight decay, 0 or more."""
    precision: Precision = "fp32"
    """Number format of the model's forward and backward pass; fp16 scales its gradients."""
    num_evaluations: Count = 3
    """Evaluations in a run, evenly spread, 1 or more; the last one is at the end."""
    device: str = "auto"
    """auto (an accelerator if there is one), cpu, cuda, cuda:1, mps."""
    num_threads: Count | None = None
    """Threads of the CPU's operations, 1 or more; None is torch's choice. Sums depend on it."""

    def __post_init__(self) -> None:
        check_recipe(self)


def check_recipe(recipe: Recipe) -> None:
    """Raise `InputError` if fields that all recipes have break a rule or contradict each other."""
    check_fields(recipe)
    if recipe.trusted is not None and recipe.trusted_rows:
        raise InputError(
            f"--trusted {recipe.trusted} brings trusted samples, and --trusted-rows "
            f"{recipe.trusted_rows} takes some of the training samples. Give one of the two."
        )
    if recipe.keep_index is not None and recipe.trusted_rows:
        raise InputError(
            f"--keep-index keeps some of the training samples, of which --trusted-rows "
            f"{recipe.trusted_rows} would trust others than before. Hand trusted samples over with "
            "--trusted."
        )


def check_optimizer(optimizer: Optimizer, learning_rate: float) -> None:
    """Raise `InputError` for a rate at which the optimizer diverges."""
    if optimizer == "adamw" and learning_rate > _ADAMW_LIMIT:
        raise InputError(
            f"--learning-rate is {learning_rate}, which suits sgd; adamw diverges above "
            f"{_ADAMW_LIMIT}. Try --learning-rate 0.001."
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageRecipe(Recipe):
    """How every method trains on images."""

    task: str
    """digits (scikit-learn's, embedded), cifar10, image (any images, named by --data), or one of
    the suite's tasks."""
    data: str | None
    """Hub name (owner/name or owner/name:configuration), parquet file, folder of parquet files or
    image folder; None for a task that brings its own."""
    image_column: str | None = None
    """Column with the images; None finds it by its type."""
    imbalance: Imbalance | None = None
    """Long tail: how many times more samples the first class has than the last, 1 or more; the
    sizes between fall exponentially. The evaluation samples stay as they are."""
    duplicates: Share = 0.0
    """Share of the training samples that are near-copies of a few others, in [0, 1)."""
    foreign_data: str | None = None
    """Other images, as --data, of which some are mixed in under labels drawn at random."""
    foreign_share: Share = 0.0
    """Share of the training samples that are of --foreign-data, in [0, 1)."""
    trusted_noise: Share = 0.0
    """Share of the labels of --trusted-rows replaced by a wrong one, in [0, 1)."""
    trusted_imbalance: Imbalance | None = None
    """How many times more of --trusted-rows the first class has than the last, 1 or more; None
    takes as many of each class as can be."""
    train_labels: FileAndColumn | None = None
    """PARQUET:COLUMN with other training labels, one for each row of the training data in order;
    None takes the data's own."""
    image_size: Annotated[int, at_least(8)]
    """Side of the square images in pixels, 8 or more; all images are resized to it."""
    model: str
    """cnn, resnet-tiny, resnet-small, resnet-18, resnet-34 or resnet-50."""
    width: Count | None = None
    """Channels of the model's first stage, 1 or more (a resnet 16); None takes the model's own."""
    optimizer: Optimizer = "sgd"
    """sgd (Nesterov) or adamw."""
    schedule: Schedule = "one-cycle"
    """Learning rate over all steps: one-cycle (up for 30 %, then down to zero) or cosine (down)."""
    weight_decay: NotNegative = 5e-4
    """Weight decay, 0 or more."""
    momentum: Share = 0.9
    """Momentum of sgd, in [0, 1)."""
    label_smoothing: Share = 0.0
    """Label smoothing of the training loss, in [0, 1)."""
    augment: Augmentation
    """Augmentation of training images: none, crop (shifts by up to an eighth) or crop-flip."""
    num_evaluations: Count = 10
    """Evaluations in a run, evenly spread, 1 or more; the last one is at the end."""

    def __post_init__(self) -> None:
        check_recipe(self)
        check_optimizer(self.optimizer, self.learning_rate)
        check_foreign(self)
        check_trusted(self)
        check_model(self.model, image_size=self.image_size, width=self.width)


def check_foreign(recipe: ImageRecipe | TextRecipe) -> None:
    """Raise `InputError` if a recipe names foreign data without their share, or the share alone."""
    if (recipe.foreign_data is None) != (recipe.foreign_share == 0):
        raise InputError(
            f"--foreign-data is {recipe.foreign_data!r} and --foreign-share is "
            f"{recipe.foreign_share}; one means nothing without the other. Give both or neither."
        )


def check_trusted(recipe: ImageRecipe) -> None:
    """Raise `InputError` for errors of trusted rows where none are taken."""
    if recipe.trusted_rows == 0 and (recipe.trusted_noise or recipe.trusted_imbalance):
        raise InputError(
            f"--trusted-noise is {recipe.trusted_noise} and --trusted-imbalance is "
            f"{recipe.trusted_imbalance}, but --trusted-rows is 0. They change the rows that "
            "--trusted-rows takes: add --trusted-rows 500, or leave them out."
        )


_ONLY_FOR: Mapping[str, Kind] = {
    "prompt_column": "sft",
    "completion_column": "sft",
    "packing": "sft",
    "foreign_data": "sft",
    "foreign_share": "sft",
    "label_noise": "text-classification",
    "label_column": "text-classification",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TextRecipe(Recipe):
    """How every method trains on text."""

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
    eval_subset: Count | None = None
    """Evaluate on this many held-out rows only; None takes all."""
    foreign_data: str | None = None
    """sft: other data, as --data, of which some training rows are mixed in as evenly as can be;
    several are separated by commas. What is evaluated and trusted is of --data alone."""
    foreign_share: Share = 0.0
    """sft: share of the training rows that are of --foreign-data, in [0, 1)."""
    label_noise: Share = 0.0
    """text-classification: share of the training labels replaced by a wrong one, in [0, 1)."""
    model: str
    """Hub name or local path of a model, or one that is built here and trained from scratch:
    llama-HIDDENxLAYERS (sft, lm), bert-HIDDENxLAYERS (text-classification), e.g. llama-128x2."""
    tokenizer: str | None = None
    """Hub name or local path; None is the model's own, or for a model trained from scratch one
    trained on the training texts."""
    vocab_size: Annotated[int, at_least(300)] = 4096
    """Tokens of a tokenizer that is trained here, 300 or more."""
    max_length: Annotated[int, at_least(2)] = 256
    """Tokens of a sequence, 2 or more; longer ones are cut at the end."""
    packing: bool = False
    """sft: join short sequences to packs of up to --max-length tokens; a pack is then a sample."""
    lora_rank: Count | None = None
    """Train low-rank adapters of this rank on all linear layers; None trains the whole model."""
    gradient_checkpointing: bool = False
    """Compute activations a second time instead of keeping them."""
    learning_rate: Positive
    """Peak learning rate of AdamW, above 0; 3 % of the steps lead up to it, a cosine down from."""
    mmlu: str | None = None
    """Folder with MMLU (dev.parquet, test.parquet), on which the trained model is evaluated."""
    harness_tasks: str | None = None
    """Further tasks of the evaluation harness (lm-eval) by name, separated by commas."""
    harness_limit: Count | None = None
    """Evaluate on so many items of each subject or harness task only, 1 or more; None takes all."""

    def __post_init__(self) -> None:
        check_recipe(self)
        for field in fields(self):
            kind = _ONLY_FOR.get(field.name, self.kind)
            if kind != self.kind and getattr(self, field.name) != field.default:
                name = flag_of(field.name)
                raise InputError(f"{name} is for {kind}; {self.task} is {self.kind}.")
        check_foreign(self)
        if (self.mmlu or self.harness_tasks) and self.kind == "text-classification":
            raise InputError(
                "--mmlu and --harness-tasks ask a language model for the likelihood of answers; "
                "a classifier has none. Leave them out."
            )


_OF_SAMPLES = (
    *("label_column", "subset", "label_noise", "trusted_rows", "trusted", "keep_index"),
    "accumulation",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptRecipe(Recipe):
    """How every method rolls prompts out and trains on them, from one and the same warmed-up model.

    An epoch is as many generation batches as lie between two lines of metrics.
    """

    task: str
    """string-world, or another one of the suites."""
    data: str | None = None
    """None: problems are made."""
    problems: Problems = "string-world"
    """What is to be solved: string-world, or spell_backward or palindrome_generation, which are of
    the package reasoning-gym."""
    world: Annotated[int, at_least(0)] = 0
    """Number of the world, 0 or more: order of the letters, pairs of operations, problems; of a
    task of reasoning-gym the seed of its problems."""
    num_prompts: Count = 4096
    """Prompts that may be rolled out, 1 or more."""
    num_eval_prompts: Count = 512
    """Held-out problems, 1 or more."""
    num_warm_up_problems: Count = 4096
    """Problems that the model is taught before, 1 or more."""
    warm_up_steps: Annotated[int, at_least(0)] = 300
    """Steps in which it is taught them, 0 or more."""
    model: str = "decoder-96x3"
    """decoder-HIDDENxLAYERS, trained from scratch."""
    epochs: Count = 20
    """Lines of metrics, 1 or more."""
    batches: Count = 10
    """Generation batches in an epoch, each with one optimizer step, 1 or more."""
    batch_size: Count = 16
    """Prompts in a generation batch, 1 or more."""
    generations: Annotated[int, at_least(2)] = 8
    """Completions of a prompt, 2 or more."""
    pool: Count = 4
    """Candidates for each prompt of a batch, 1 or more."""
    learning_rate: Positive = 2e-4
    """Learning rate of AdamW, above 0, constant."""
    num_evaluations: Count = 20
    """Evaluations in a run, evenly spread, 1 or more; the last one is at the end."""

    def __post_init__(self) -> None:
        check_fields(self)
        for field in fields(Recipe):
            if field.name in _OF_SAMPLES and getattr(self, field.name) != field.default:
                raise InputError(
                    f"{flag_of(field.name)} is for samples of a data set; the prompts of "
                    f"{self.task} are made. Leave it out."
                )
        if self.data is not None:
            raise InputError(f"{self.task} makes its own problems; leave out --data {self.data}.")
        if not re.fullmatch(r"decoder-\d+x\d+", self.model):
            raise InputError(f"--model is {self.model!r}; expected decoder-HIDDENxLAYERS.")
        if self.batch_size > self.num_prompts:
            raise InputError(
                f"--batch-size is {self.batch_size}, but there are {self.num_prompts} prompts."
            )

    @property
    def num_completions(self) -> int:
        """Completions in an epoch."""
        return self.batches * self.batch_size * self.generations


R = TypeVar("R", bound=Recipe)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig(Generic[R]):
    """One run.

    Raises:
        InputError: a value outside its range.
    """

    recipe: R
    method: str = "data-agent"
    """What chooses the samples: data-agent, random, another method, module:Class for one of your
    own, full (all data), or full-short (all data, stopped where the keep ratio's budget ends)."""
    keep_ratio: KeepRatio = 0.5
    """Share of the training samples visited in an epoch, in (0, 1]."""
    seed: Annotated[int, at_least(0)] = 0
    """Seed of model, selection, augmentation and label noise, 0 or more."""

    def __post_init__(self) -> None:
        check_method(self.method, of_prompts=isinstance(self.recipe, PromptRecipe))
        check_fields(self)

    @property
    def name(self) -> str:
        """The run's folder in a comparison's: TASK/METHOD-keepRATIO-seedSEED."""
        is_own = isinstance(self.recipe, PromptRecipe) or ignores_keep_ratio(self.method)
        budget = "" if is_own else f"-keep{self.keep_ratio}"
        return f"{self.recipe.task}/{self.method}{budget}-seed{self.seed}"

    def flat(self) -> dict[str, Any]:
        """All fields by name, as stored in a run's folder."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "recipe"}
        return {**asdict(self.recipe), **own}
