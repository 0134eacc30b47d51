"""The Trainers of runs on text: those of our integrations, which also count what training costs."""

from __future__ import annotations

from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

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
from data_agent_lab.data.image_data import corrupt_labels
from data_agent_lab.data.texts import LanguageData
from data_agent_lab.methods import is_batch_selector, needs
from data_agent_lab.recipes import RunConfig, TextRecipe
from data_agent_lab.training.ledger import Ledger
from data_agent_lab.training.plan import plan_run
from data_agent_lab.training.ranks import batch_of_rank
from data_agent_lab.training.text_models import build_model, lora_config

if TYPE_CHECKING:
    _Base = SelectiveTrainer
else:
    _Base = object

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

    @cached_property
    def _row_tokens(self) -> Tensor:
        return torch.tensor([len(ids) for ids in self.rows["input_ids"]])

    @property
    def rows(self) -> datasets.Dataset:
        """What it trains on: rows as they were given, or packs of them."""
        return cast("datasets.Dataset", self.train_dataset)

    def training_step(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Adds the batch's loss to the ledger."""
        loss = super().training_step(model, inputs, *args, **kwargs)
        self.ledger.loss_sum.add_(loss.detach() / distributed.world_size())
        return loss

    def on_samples(self, index: Tensor, *, is_backward: bool) -> None:
        """Adds the samples and their tokens to the ledger."""
        tokens = int(self._row_tokens[index].sum())
        self.ledger.count(len(index), tokens, is_backward=is_backward)


class LabTrainer(CountsCost, SelectiveTrainer):
    """Trains classifiers."""


class LabSFTTrainer(CountsCost, SelectiveSFTTrainer):
    """Trains language models."""


AnyTrainer = LabTrainer | LabSFTTrainer


def make_trainer(
    config: RunConfig[TextRecipe], data: LanguageData, folder: Path, *, ledger: Ledger, on_cpu: bool
) -> AnyTrainer:
    """The run's Trainer at its beginning; seeds torch's global generator.

    Args:
        config: the run.
        data: the data of its recipe, without label noise, which is added here.
        folder: where it keeps checkpoints.
        ledger: where it counts what it costs.
        on_cpu: whether it computes there.

    Raises:
        InputError: settings that contradict each other, or a model that cannot be found.
    """
    recipe = config.recipe
    torch.manual_seed(config.seed)
    model, adapters = build_model(recipe, data), lora_config(recipe)
    if adapters is not None and recipe.precision == "bf16":
        model.to(torch.bfloat16)  # frozen; the adapters are trained in float32
    rows = training_rows(config, data)
    labels = {"labels": torch.tensor(rows["labels"])} if "labels" in needs(config.method) else {}
    plan = plan_run(config, num_samples=len(rows))
    selector = partial(
        make_selector, plan.selector, keep_ratio=plan.keep_ratio, seed=config.seed, **labels
    )
    options: dict[str, Any] = {"selector": selector, "train_dataset": rows}
    arguments = _arguments(config, folder, on_cpu=on_cpu)
    if recipe.kind == "text-classification":
        if adapters is not None:
            from peft import get_peft_model

            model = get_peft_model(model, adapters)
        trainer: AnyTrainer = LabTrainer(
            model=model,
            args=TrainingArguments(**arguments),
            data_collator=DataCollatorWithPadding(data.tokenizer),
            **options,
        )
    else:
        trainer = LabSFTTrainer(
            model=model,
            args=SFTConfig(
                **arguments,
                max_length=recipe.max_length if recipe.packing else None,  # rows are cut already
                packing=recipe.packing,
                completion_only_loss=recipe.kind == "sft",
            ),
            processing_class=data.tokenizer,
            peft_config=adapters,
            **options,
        )
    trainer.remove_callback(PrinterCallback)  # the run says what is worth saying
    trainer.ledger = ledger
    plan = plan_run(config, num_samples=len(trainer.rows))  # known once packing has made them
    trainer.args.num_train_epochs = plan.epochs
    trainer.args.max_steps = plan.max_steps or -1
    return trainer


def training_rows(config: RunConfig[TextRecipe], data: LanguageData) -> datasets.Dataset:
    """The rows to train on: of a noisy recipe with the run's own wrong labels."""
    if config.recipe.label_noise == 0:
        return data.train
    labels = corrupt_labels(
        torch.tensor(data.train["labels"]),
        config.recipe.label_noise,
        num_classes=len(data.class_names),
        seed=config.seed,
    )
    return data.train.remove_columns("labels").add_column("labels", labels.tolist())


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
        "save_strategy": "no",  # the run's callback says when
        "save_total_limit": 2,
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
