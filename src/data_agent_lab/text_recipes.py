"""How a language model is trained: data, model, optimisation and budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal

from data_agent.errors import InputError
from data_agent_lab import rules
from data_agent_lab.rules import check_fields, flag_of, is_count

Kind = Literal["sft", "lm", "text-classification"]
Precision = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LanguageSetup:
    """What all runs of a language task have in common: everything but budget, method and seed.

    Raises:
        InputError: a value outside its range.
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
    subset: int | None = None
    """Train on this many rows only, the same ones for every method and seed; None takes all."""
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
    epochs: int
    """Passes of the schedule, 1 or more."""
    batch_size: int
    """Sequences in a batch, 1 or more."""
    accumulation: int = 1
    """Batches in an optimizer step, 1 or more."""
    learning_rate: float
    """Peak learning rate of AdamW, above 0; 3 % of the steps lead up to it, a cosine down from."""
    weight_decay: float = 0.0
    """Weight decay, 0 or more."""
    precision: Precision = "fp32"
    """Number format of the forward and backward pass."""
    num_evaluations: int = 3
    """Evaluations in a run, evenly spread over its epochs, 1 or more; the last is at the end."""
    mmlu: str | None = None
    """Folder with MMLU (dev.parquet, test.parquet), on which the trained model is evaluated."""
    harness_tasks: str | None = None
    """Further tasks of the evaluation harness (lm-eval) by name, separated by commas."""
    harness_limit: int | None = None
    """Evaluate on so many items of each subject or harness task only, 1 or more; None takes all."""
    device: str = "auto"
    """auto (an accelerator if there is one), cpu or cuda."""
    num_threads: int | None = None
    """Threads of the CPU's operations, 1 or more; None is torch's choice. Sums depend on it."""

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


@dataclass(frozen=True, kw_only=True, slots=True)
class LanguageRecipe(LanguageSetup):
    """How every method of a comparison trains: everything but the method and the seed.

    Raises:
        InputError: a value outside its range.
    """

    keep_ratio: float = 0.5
    """Share of the training samples visited in an epoch, in (0, 1]."""


_COUNT = (lambda v: v is None or is_count(v), "a whole number, 1 or more")
_RULES: rules.Rules = {
    "kind": (
        lambda v: v in ("sft", "lm", "text-classification"),
        "sft, lm or text-classification",
    ),
    "subset": _COUNT,
    "eval_subset": _COUNT,
    "label_noise": rules.LABEL_NOISE,
    "vocab_size": (lambda v: is_count(v, 300), "a whole number, 300 or more"),
    "max_length": (lambda v: is_count(v, 2), "a number of tokens, 2 or more"),
    "lora_rank": _COUNT,
    "keep_ratio": rules.KEEP_RATIO,
    "epochs": (is_count, "a whole number, 1 or more"),
    "batch_size": (is_count, "a whole number, 1 or more"),
    "accumulation": (is_count, "a number of batches, 1 or more"),
    "learning_rate": rules.LEARNING_RATE,
    "weight_decay": rules.WEIGHT_DECAY,
    "precision": rules.PRECISION,
    "num_evaluations": (is_count, "a whole number, 1 or more"),
    "harness_limit": _COUNT,
    "num_threads": _COUNT,
}
_ONLY_FOR: Mapping[str, Kind] = {
    "prompt_column": "sft",
    "completion_column": "sft",
    "packing": "sft",
    "label_noise": "text-classification",
    "label_column": "text-classification",
}
