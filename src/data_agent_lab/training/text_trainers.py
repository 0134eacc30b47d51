"""The Trainers of language runs: those of our integrations, which also book what training costs."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import datasets
import torch
from torch import Tensor, nn
from transformers import DataCollatorWithPadding, TrainingArguments
from transformers.trainer_callback import PrinterCallback
from trl.trainer.sft_config import SFTConfig

from data_agent import Selector, make_selector
from data_agent.errors import CheckpointError
from data_agent.integrations.transformers import SelectiveTrainer
from data_agent.integrations.trl import SelectiveSFTTrainer
from data_agent.runtime import distributed
from data_agent.runtime.files import read_text, write_json
from data_agent_lab.data.image_data import corrupt_labels
from data_agent_lab.data.texts import LanguageData
from data_agent_lab.methods import Plan, is_batch_selector, needs, plan_run
from data_agent_lab.recipes import RunConfig, TextRecipe
from data_agent_lab.training.devices import Stopwatch
from data_agent_lab.training.ranks import batch_of_rank
from data_agent_lab.training.text_models import build_model, lora_config

if TYPE_CHECKING:
    _Base = SelectiveTrainer
else:
    _Base = object

LEDGER_FILE = "ledger.json"  # in a Trainer's checkpoint, beside its own files
# Transformers renamed it in 5.24, and warns of the old name.
_CHECKPOINTING = next(
    name
    for name in ("activation_checkpointing", "gradient_checkpointing")
    if name in TrainingArguments.__dataclass_fields__
)
_WARM_UP = 0.03  # share of the steps in which the learning rate rises


@dataclass(slots=True)
class Ledger:
    """What a run has cost on this rank; saved with every checkpoint of its Trainer.

    Samples that a framework pads an epoch with are paid for, and so they are counted.
    """

    num_forward: int = 0  # samples that went through the model to train it
    num_backward: int = 0  # samples that went through its backward pass
    num_forward_tokens: int = 0  # tokens of those samples, without padding
    num_backward_tokens: int = 0
    epoch_loss: float = 0.0  # sum over the optimizer steps of the running epoch, ...
    epoch_steps: int = 0  # ... and their number
    train_seconds: float = 0.0
    train_cpu_seconds: float = 0.0
    eval_seconds: float = 0.0


class _BooksCost(_Base):
    """A Trainer of ours that keeps a ledger; `prepare` comes before `train`."""

    ledger: Ledger
    stopwatch: Stopwatch
    _row_tokens: Tensor
    _losses: list[Tensor]

    def prepare(self, device: torch.device) -> None:
        """Begin a ledger, and look up how long the training rows are.

        Args:
            device: what the stopwatch waits for.
        """
        self.ledger, self.stopwatch, self._losses = Ledger(), Stopwatch(device), []
        self._row_tokens = torch.tensor([len(ids) for ids in self.rows["input_ids"]])

    @property
    def rows(self) -> datasets.Dataset:
        """What it trains on: rows as they were given, or packs of them."""
        return cast("datasets.Dataset", self.train_dataset)

    def take_losses(self) -> None:
        """Book the losses of the steps since the last call; waits for the device."""
        for loss in torch.stack(self._losses).tolist() if self._losses else ():
            self.ledger.epoch_loss += loss  # one by one: equal however often it is called
        self._losses = []

    @contextmanager
    def not_training(self) -> Generator[None]:
        """Nothing in the block counts as time of training."""
        self.stop_clock()
        yield
        self.stopwatch.start()

    def stop_clock(self) -> None:
        """Book the time since the clock was started; without a start, nothing."""
        self.stopwatch.stop()
        self.ledger.train_seconds += self.stopwatch.seconds
        self.ledger.train_cpu_seconds += self.stopwatch.cpu_seconds
        self.stopwatch.seconds = self.stopwatch.cpu_seconds = 0.0

    def training_step(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Tensor:
        loss = super().training_step(model, inputs, *args, **kwargs)
        self._losses.append(loss.detach())
        return loss

    def _choose(self, model: nn.Module, index: Tensor, inputs: Any, num_items: Any) -> Any:
        self.ledger.num_forward += len(index)
        self.ledger.num_forward_tokens += int(self._row_tokens[index].sum())
        return super()._choose(model, index, inputs, num_items)

    def _observe(
        self, index: Tensor, inputs: Any, outputs: Any, loss: Tensor, num_items: Any
    ) -> Tensor:
        num_tokens = int(self._row_tokens[index].sum())
        self.ledger.num_forward += len(index)
        self.ledger.num_backward += len(index)
        self.ledger.num_forward_tokens += num_tokens
        self.ledger.num_backward_tokens += num_tokens
        return super()._observe(index, inputs, outputs, loss, num_items)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        with self.not_training():
            super()._save_checkpoint(*args, **kwargs)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        self.take_losses()
        number = self.args.process_index
        write_json(Path(output_dir) / f"rank{number}-{LEDGER_FILE}", asdict(self.ledger))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            self.ledger = _read_ledgers(Path(checkpoint))


class LabTrainer(_BooksCost, SelectiveTrainer):
    """Trains classifiers."""


class LabSFTTrainer(_BooksCost, SelectiveSFTTrainer):
    """Trains language models."""


def _read_ledgers(checkpoint: Path) -> Ledger:
    """The ledger this rank goes on with: of as many ranks as then its own, else rank 0 has all."""
    paths = sorted(checkpoint.glob(f"rank*-{LEDGER_FILE}"), key=_rank_of)
    try:
        ledgers = [Ledger(**json.loads(read_text(path))) for path in paths]
    except (ValueError, TypeError, OSError) as error:
        raise CheckpointError(f"the ledger in {checkpoint} is damaged ({error}).") from error
    parts = [ledgers[part] for part in distributed.parts_to_resume(len(ledgers))]
    if not parts:
        return Ledger()
    names = ("num_forward", "num_backward", "num_forward_tokens", "num_backward_tokens")
    return replace(parts[0], **{n: sum(getattr(part, n) for part in parts) for n in names})


def _rank_of(path: Path) -> int:
    return int(path.name.removeprefix("rank").partition("-")[0])


def make_trainer(
    config: RunConfig[TextRecipe], data: LanguageData, folder: Path, *, device: torch.device
) -> LabTrainer | LabSFTTrainer:
    """The run's Trainer at its beginning; seeds torch's global generator.

    Args:
        config: the run.
        data: the data of its recipe, without label noise, which is added here.
        folder: where it keeps checkpoints.
        device: where it computes.

    Raises:
        InputError: settings that contradict each other, or a model that cannot be found.
    """
    recipe = config.recipe
    torch.manual_seed(config.seed)
    model = build_model(recipe, data)
    adapters = lora_config(recipe)
    if adapters is not None and recipe.precision == "bf16":
        model.to(torch.bfloat16)  # frozen; the adapters are trained in float32
    rows = training_rows(config, data)
    options: dict[str, Any] = {"selector": _selector_of(config, rows), "train_dataset": rows}
    if recipe.kind == "text-classification":
        if adapters is not None:
            from peft import get_peft_model

            model = get_peft_model(model, adapters)
        trainer: LabTrainer | LabSFTTrainer = LabTrainer(
            model=model,
            args=TrainingArguments(**_arguments(config, folder, device)),
            data_collator=DataCollatorWithPadding(data.tokenizer),
            **options,
        )
    else:
        trainer = LabSFTTrainer(
            model=model,
            args=SFTConfig(
                **_arguments(config, folder, device),
                max_length=recipe.max_length if recipe.packing else None,  # rows are cut already
                packing=recipe.packing,
                completion_only_loss=recipe.kind == "sft",
            ),
            processing_class=data.tokenizer,
            peft_config=adapters,
            **options,
        )
    trainer.remove_callback(PrinterCallback)  # the run says what is worth saying
    _set_length(trainer, config)
    trainer.prepare(device)
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


def _selector_of(config: RunConfig[TextRecipe], rows: datasets.Dataset) -> Callable[..., Selector]:
    """What builds the run's selector, for a Trainer that tells it how many samples there are."""
    plan = _plan(config, len(rows))
    options = {"labels": torch.tensor(rows["labels"])} if "labels" in needs(config.method) else {}

    def build(*, num_samples: int, epochs: int) -> Selector:
        return make_selector(
            plan.selector,
            num_samples=num_samples,
            epochs=epochs,
            keep_ratio=plan.keep_ratio,
            seed=config.seed,
            **options,
        )

    return build


def _plan(config: RunConfig[TextRecipe], num_rows: int) -> Plan:
    recipe = config.recipe
    return plan_run(
        config.method,
        num_samples=num_rows,
        epochs=recipe.epochs,
        keep_ratio=config.keep_ratio,
        batch_size=recipe.batch_size,
        accumulation=recipe.accumulation,
    )


def _set_length(trainer: LabTrainer | LabSFTTrainer, config: RunConfig[TextRecipe]) -> None:
    """How long to train is known once packing has made the samples."""
    plan = _plan(config, len(trainer.rows))
    trainer.args.num_train_epochs = plan.epochs
    trainer.args.max_steps = plan.max_steps or -1


def _arguments(config: RunConfig[TextRecipe], folder: Path, device: torch.device) -> dict[str, Any]:
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
        "use_cpu": device.type == "cpu",
        "save_strategy": "no",  # the run's callback says when
        "save_total_limit": 2,
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
