"""The Trainers of runs on text: those of our integrations, which also count what training costs."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import torch
from torch import Tensor, nn
from transformers import DataCollatorWithPadding, TrainingArguments
from transformers.trainer_callback import PrinterCallback
from trl.trainer.sft_config import SFTConfig

from data_agent import make_selector
from data_agent.integrations.transformers import SelectiveTrainer
from data_agent.integrations.trl import SelectiveSFTTrainer
from data_agent.runtime import distributed
from data_agent_lab.data.texts import LanguageData
from data_agent_lab.methods import is_batch_selector, needs
from data_agent_lab.recipes import RunConfig, TextRecipe
from data_agent_lab.runs.samples import kept_rows
from data_agent_lab.training.engine import Engine
from data_agent_lab.training.ledger import Ledger
from data_agent_lab.training.plan import plan_run
from data_agent_lab.training.ranks import batch_of_rank
from data_agent_lab.training.text_models import build_model, lora_config

_Base = SelectiveTrainer if TYPE_CHECKING else object

# Transformers renamed it in 5.24, and warns of the old name.
_CHECKPOINTING = next(
    name
    for name in ("activation_checkpointing", "gradient_checkpointing")
    if name in TrainingArguments.__dataclass_fields__
)
_WARM_UP = 0.03  # share of the steps in which the learning rate rises


class CountsCost(_Base):
    """A Trainer of ours that counts what it trains on in the ledger of the run."""

    ledger: Ledger

    @property
    def rows(self) -> datasets.Dataset:
        """What it trains on: rows as they were given, or packs of them."""
        rows: Any = self.train_dataset
        return rows

    @cached_property
    def row_tokens(self) -> Tensor:
        """int64 `[N]`: how many tokens each row has."""
        return torch.tensor([len(ids) for ids in self.rows["input_ids"]])

    def training_step(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Adds the batch's loss to the ledger."""
        loss = super().training_step(model, inputs, *args, **kwargs)
        self.ledger.loss_sum.add_(loss.detach() / distributed.world_size())
        return loss

    def on_samples(self, index: Tensor, *, is_backward: bool) -> None:
        """Adds the samples and their tokens to the ledger."""
        tokens = int(self.row_tokens[index].sum())
        self.ledger.count(len(index), tokens, is_backward=is_backward)


class LabTrainer(CountsCost, SelectiveTrainer):
    """Trains classifiers."""


class LabSFTTrainer(CountsCost, SelectiveSFTTrainer):
    """Trains language models."""


def make_trainer(engine: Engine, checkpoints: Path) -> LabTrainer | LabSFTTrainer:
    """The Trainer of an engine at its beginning, which keeps its checkpoints in a folder.

    Raises:
        InputError: settings that contradict each other, or a model that cannot be found.
    """
    config, recipe, data = engine.config, engine.recipe, engine.data
    torch.manual_seed(config.seed)
    model, adapters = build_model(recipe, data), lora_config(recipe)
    if adapters is not None and recipe.precision == "bf16":
        model.to(torch.bfloat16)  # frozen; the adapters are trained in float32
    rows = training_rows(config, data)
    plan = plan_run(config, num_samples=data.num_train)
    selector = partial(make_selector, plan.selector, keep_ratio=plan.keep_ratio, seed=config.seed)
    if "labels" in needs(config.method):
        trusted = [] if data.trusted is None else data.trusted["labels"][:]
        selector = partial(selector, labels=torch.tensor([*rows["labels"], *trusted]))
    arguments = _arguments(config, checkpoints, on_cpu=engine.device.type == "cpu")
    if recipe.kind == "text-classification":
        if adapters is not None:
            from peft import get_peft_model

            model = get_peft_model(model, adapters)
        kind = LabTrainer
        options: dict[str, Any] = {
            "args": TrainingArguments(**arguments),
            "data_collator": DataCollatorWithPadding(data.tokenizer),
        }
    else:
        kind = LabSFTTrainer
        arguments |= {
            "max_length": recipe.max_length if recipe.packing else None,  # rows are cut already
            "packing": recipe.packing,
            "completion_only_loss": recipe.kind == "sft",
        }
        options = {
            "args": SFTConfig(**arguments),
            "processing_class": data.tokenizer,
            "peft_config": adapters,
        }
    trainer = kind(
        model=model,
        selector=selector,
        train_dataset=rows,
        trusted_dataset=data.trusted,
        **options,
    )
    trainer.remove_callback(PrinterCallback)  # the run says what is worth saying
    trainer.ledger = engine.ledger
    plan = plan_run(config, num_samples=len(trainer.rows))  # known once packing has made them
    trainer.args.num_train_epochs = plan.epochs
    trainer.args.max_steps = plan.max_steps or -1
    return trainer


def training_rows(config: RunConfig[TextRecipe], data: LanguageData) -> datasets.Dataset:
    """The rows to train on: of a noisy recipe with the run's own wrong labels; those kept."""
    rows = data.train
    if config.recipe.label_noise > 0:
        noisy = data.labels_of_run(config.recipe, seed=config.seed)[: len(rows)]
        rows = rows.remove_columns("labels").add_column("labels", noisy.tolist())
    return kept(config.recipe, replace(data, train=rows)).train


def kept(recipe: TextRecipe, data: LanguageData) -> LanguageData:
    """The data with the training rows that the recipe keeps."""
    if recipe.keep_index is None:
        return data
    return data.at(kept_rows(Path(recipe.keep_index), data.num_train, data.num_trusted))


def _arguments(config: RunConfig[TextRecipe], folder: Path, *, on_cpu: bool) -> dict[str, Any]:
    recipe = config.recipe
    batch_size = batch_of_rank(recipe.batch_size)
    if is_batch_selector(config.method):  # a pool, which leaves it a batch
        batch_size = round(batch_size / config.keep_ratio)
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": batch_size,
        "gradient_accumulation_steps": recipe.accumulation,
        _CHECKPOINTING: recipe.gradient_checkpointing,
        "learning_rate": recipe.learning_rate,
        "weight_decay": recipe.weight_decay,
        "lr_scheduler_type": "cosine",
        "warmup_steps": _WARM_UP,
        "bf16": recipe.precision == "bf16",
        "fp16": recipe.precision == "fp16",
        "seed": config.seed,
        "use_cpu": on_cpu,
        "save_strategy": "no",  # the run's hook says when
        "save_total_limit": 2,
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
