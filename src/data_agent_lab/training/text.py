"""The engine of text tasks: a Trainer's loop, with what every run of the lab writes down."""

from __future__ import annotations

import json
import math
import shutil
import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from transformers import TrainerCallback
from transformers.utils import logging as transformers_logging

from data_agent import Selector
from data_agent.errors import CheckpointError, InputError
from data_agent.runtime import distributed
from data_agent.runtime.files import read_text, write_json
from data_agent_lab.data.texts import LanguageData
from data_agent_lab.methods import check_fits_language, is_batch_selector
from data_agent_lab.progress import Progress, silent
from data_agent_lab.recipes import RunConfig, TextRecipe
from data_agent_lab.runs.folder import RunFolder
from data_agent_lab.training.devices import autocast_at
from data_agent_lab.training.engine import Hooks, Position, is_complete, warm_up
from data_agent_lab.training.ledger import Ledger
from data_agent_lab.training.text_evaluation import evaluate
from data_agent_lab.training.text_result import check_harness, text_facts
from data_agent_lab.training.text_trainers import make_trainer

_TRAINER = "trainer"  # folder of the Trainer's checkpoints, in the run's folder
_MODEL = "model"  # and of the trained model
_LEDGER = "ledger.json"  # in a checkpoint, written last


def check_text(config: RunConfig[TextRecipe]) -> None:
    """Raise `InputError` if a run cannot be trained, before anything is written."""
    recipe = config.recipe
    check_fits_language(config.method, has_labels=recipe.kind == "text-classification")
    if recipe.packing and is_batch_selector(config.method):
        raise InputError(
            f"{config.method!r} chooses rows of a batch, and --packing joins them into one row. "
            "Leave out --packing, or take another method."
        )
    check_harness(recipe)


@contextmanager
def _quiet() -> Generator[None]:
    """Leave out the frameworks' progress bars, and what they say of their next versions."""
    has_bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            for category in (FutureWarning, DeprecationWarning):
                warnings.filterwarnings("ignore", category=category)
            yield
    finally:
        if has_bars:
            transformers_logging.enable_progress_bar()


class TextEngine:
    """Trains a language model or a classifier of texts in a Trainer's loop; see `Engine`.

    The trained model is left in the run's folder under `model`, as transformers saves models.

    Args:
        config: the run.
        data: the data of its recipe, without label noise.
        folder: of the run.
        device: where it computes.
        progress: told about every optimizer step.

    Raises:
        InputError: settings that contradict each other, or a model that cannot be found.
    """

    eval_batch: ClassVar[int] = 64
    saves_every_epoch: ClassVar[bool] = False

    @_quiet()
    def __init__(
        self,
        config: RunConfig[TextRecipe],
        data: LanguageData,
        folder: RunFolder,
        *,
        device: torch.device,
        progress: Progress = silent,
    ) -> None:
        self.metric = "accuracy" if data.class_names else "loss"
        self.config, self.data, self.progress = config, data, progress
        self.wants_checkpoint = False
        self._folder, self._device = folder.path, device
        self._checkpoint: Path | None = None
        self.position, self.ledger = Position(), Ledger(device)
        self.trainer = make_trainer(
            config, data, folder.path / _TRAINER, ledger=self.ledger, on_cpu=device.type == "cpu"
        )
        warm_up(self.model, device, self._first_loss)

    @property
    def model(self) -> Any:
        """The model, without what shares it among ranks."""
        return self.trainer.model

    @property
    def selector(self) -> Selector:
        """The run's selector, which its Trainer builds when training begins."""
        assert self.trainer.selector is not None
        return self.trainer.selector

    def _first_loss(self) -> torch.Tensor:
        trainer = self.trainer
        rows: Any = [trainer.rows[i] for i in range(min(2, len(trainer.rows)))]
        batch = trainer._prepare_inputs(trainer.data_collator(rows))
        with trainer.compute_loss_context_manager():
            return self.model(**batch).loss

    def resume(self) -> tuple[int, float]:
        """Find the newest checkpoint that was written to its end; see `Engine`.

        Raises:
            CheckpointError: it is damaged.
        """
        complete = [path.parent for path in (self._folder / _TRAINER).glob(f"*/{_LEDGER}")]
        if complete:
            self._checkpoint = max(complete, key=_step_of)
            try:
                self.ledger.load_state(json.loads(read_text(self._checkpoint / _LEDGER)))
            except (ValueError, KeyError, TypeError, OSError) as error:
                raise CheckpointError(
                    f"the ledger in {self._checkpoint} is damaged ({error})."
                ) from error
            self.position.step = _step_of(self._checkpoint)
        return self.position.step, math.inf

    @_quiet()
    def train(self, hooks: Hooks) -> None:
        """Train until the run is complete, or a hook says to stop."""
        self.trainer.add_callback(_Events(self, hooks))
        last = None if self._checkpoint is None else str(self._checkpoint)
        self.trainer.train(resume_from_checkpoint=last)

    def evaluate(self, limit: int | None = None) -> dict[str, float]:
        """The loss in nats, and perplexity or accuracy in percent; a collective call."""
        data, precision = self.data, self.config.recipe.precision
        if limit is not None:
            few = range(min(limit, data.num_eval))
            data = replace(data, evaluation=data.evaluation.select(few))
        return evaluate(self.model, data, autocast=autocast_at(precision, self._device))

    def save(self) -> None:
        """Have the Trainer write a checkpoint when the hook returns."""
        self.wants_checkpoint = True

    def complete_checkpoint(self) -> None:
        """Write the ledger, last of all files, into the checkpoint of this step; collective."""
        state = self.ledger.state()
        if distributed.rank() == 0:
            folder = self._folder / _TRAINER / f"checkpoint-{self.position.step}"
            write_json(folder / _LEDGER, state)
        self.wants_checkpoint = False

    @_quiet()
    def facts(self, last: Mapping[str, Any]) -> dict[str, Any]:
        """What the result says about data and metrics; see `Engine`."""
        return text_facts(self.trainer, self.config, self.data, last)

    @_quiet()
    def finish(self) -> None:
        """Leave the trained model in the run's folder, and nothing to resume from."""
        self.trainer.save_model(str(self._folder / _MODEL))
        self.data.tokenizer.save_pretrained(str(self._folder / _MODEL))
        shutil.rmtree(self._folder / _TRAINER, ignore_errors=True)


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.partition("-")[2])


class _Events(TrainerCallback):
    """Calls a run's hooks as its Trainer trains."""

    def __init__(self, engine: TextEngine, hooks: Hooks) -> None:
        self._engine, self._hooks = engine, hooks
        self._is_stopped = False

    def on_train_begin(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
        del args
        self._engine.position.num_steps = state.max_steps
        self._engine.ledger.training.start()

    def on_optimizer_step(self, *_: Any, **kwargs: Any) -> None:
        self._engine.position.learning_rate = kwargs["optimizer"].param_groups[0]["lr"]

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        engine, position = self._engine, self._engine.position
        position.step = state.global_step
        engine.ledger.num_losses += 1
        epoch, schedule = engine.selector.epoch or 0, engine.selector.schedule
        engine.progress(f"epoch {epoch + 1}", position.step, position.num_steps)
        per_epoch = -(-schedule.steps(0) // args.gradient_accumulation_steps)
        if position.step % per_epoch and not is_complete(engine):
            self._follow(self._hooks.after_step(), control)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        del args, state
        if self._is_stopped:
            return
        epoch = self._engine.selector.epoch or 0
        self._engine.position.epoch = epoch + 1
        self._follow(self._hooks.after_epoch(epoch), control)

    def _follow(self, is_stopped: bool, control: Any) -> None:
        """Stop or save as the hook asked."""
        if is_stopped:
            self._is_stopped = control.should_training_stop = True
        if self._engine.wants_checkpoint:
            control.should_save = True
            self._engine.ledger.training.stop()  # until it is saved

    def on_save(self, *_: Any, **__: Any) -> None:
        self._engine.complete_checkpoint()
        self._engine.ledger.training.start()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self._engine.ledger.training.stop()
