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
from accelerate.utils import send_to_device
from transformers import TrainerCallback
from transformers.utils import logging as transformers_logging

from data_agent.errors import CheckpointError, InputError
from data_agent.runtime import distributed
from data_agent.runtime.files import read_text, write_json
from data_agent_lab.methods import check_fits_language, is_batch_selector
from data_agent_lab.recipes import RunConfig, TextRecipe
from data_agent_lab.training.engine import Engine, Hook
from data_agent_lab.training.text_evaluation import evaluate, harness_metrics, load_harness
from data_agent_lab.training.text_trainers import kept, make_trainer

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
    if recipe.packing and recipe.keep_index is not None:
        raise InputError(
            "--keep-index names rows, and with --packing a sample is a pack of several. Leave out "
            "one of them."
        )
    load_harness(recipe)


@contextmanager
def _quiet() -> Generator[None]:
    """Leave out the frameworks' progress bars, and what they say of their next versions."""
    transformers_logging.disable_progress_bar()
    with warnings.catch_warnings():
        for category in (FutureWarning, DeprecationWarning):
            warnings.simplefilter("ignore", category)
        yield


class TextEngine(Engine):
    """Trains a language model or a classifier of texts in a Trainer's loop; see `Engine`.

    The trained model is left in the run's folder under `model`, as transformers saves models.
    """

    eval_batch: ClassVar[int] = 64
    saves_every_epoch: ClassVar[bool] = False

    @_quiet()
    def build(self) -> None:
        """Make the Trainer."""
        self._checkpoints = self.folder.path / "trainer"
        self.trainer = make_trainer(self, self._checkpoints)
        self.model = self.trainer.model
        data, self.labels, self.true_labels = kept(self.recipe, self.data), None, None
        if self.data.class_names:
            self.labels = torch.tensor(self.trainer.rows["labels"])
            self.true_labels = torch.tensor(data.samples["labels"][:])
        elif data.foreign is not None and not self.recipe.packing:
            behind = torch.zeros(data.num_trusted, dtype=torch.int64)
            self.true_labels = torch.cat([-data.foreign.long(), behind])
        self.warm_up(self._first_loss)

    def _first_loss(self) -> torch.Tensor:
        trainer = self.trainer
        rows: Any = [trainer.rows[i] for i in range(min(2, len(trainer.rows)))]
        inputs: Any = send_to_device(trainer.data_collator(rows), self.device)
        with trainer.compute_loss_context_manager():
            return self.model(**inputs).loss

    def resume(self) -> tuple[int, float]:
        """Find the newest checkpoint that was written to its end."""
        complete = {
            int(p.parent.name.partition("-")[2]): p for p in self._checkpoints.glob(f"*/{_LEDGER}")
        }
        if complete:
            self.position.step, path = max(complete.items())
            try:
                self.ledger.load_state(json.loads(read_text(path)))
            except (ValueError, KeyError, TypeError, OSError) as error:
                raise CheckpointError(f"{path} is damaged ({error}).") from error
        return self.position.step, math.inf

    @_quiet()
    def train(self, hook: Hook) -> None:
        """Train until the run is complete, or the hook says to stop."""
        self.trainer.add_callback(_Events(self, hook))
        step = self.position.step
        self.trainer.train(resume_from_checkpoint=str(self.checkpoint_of(step)) if step else None)

    def evaluate(self, limit: int | None = None) -> dict[str, Any]:
        """The loss in nats, and perplexity or accuracy in percent."""
        data = self.data
        if limit is not None:
            few = range(min(limit, data.num_eval))
            data = replace(data, evaluation=data.evaluation.select(few))
        return evaluate(self.model, data, autocast=self.autocast())

    def save(self) -> None:
        """Have the Trainer write a checkpoint when the hook returns."""
        self.trainer.control.should_save = True

    def checkpoint_of(self, step: int) -> Path:
        """The Trainer's folder of a checkpoint at that optimizer step."""
        return self._checkpoints / f"checkpoint-{step}"

    @_quiet()
    def facts(self, last: Mapping[str, Any]) -> dict[str, Any]:
        """What the result says about texts; asks the evaluation harness where the recipe does."""
        data = self.data
        metrics = harness_metrics(self.model, data.tokenizer, self.recipe)
        num_noisy = 0
        if self.labels is not None:
            num_noisy = int((self.labels != self.true_labels).sum())
        else:
            perplexity = {"value": last["perplexity"], "unit": "", "direction": "lower"}
            metrics = {"perplexity": perplexity, **metrics}
        return {
            "further_metrics": metrics,
            "evaluation": data.evaluation_source,
            "num_train_tokens": int(self.trainer.row_tokens.sum()),
            "dropped": dict(data.dropped),
            "num_noisy_labels": num_noisy,
            "num_trusted_rows": len(self.trainer.trusted_rows),
        }

    @_quiet()
    def finish(self) -> None:
        """Leave the trained model in the run's folder, and nothing to resume from."""
        folder = str(self.folder.path / "model")
        self.trainer.save_model(folder)
        self.data.tokenizer.save_pretrained(folder)
        shutil.rmtree(self._checkpoints, ignore_errors=True)


class _Events(TrainerCallback):
    """Calls a run's hook as its Trainer trains."""

    def __init__(self, engine: TextEngine, hook: Hook) -> None:
        self._engine, self._hook = engine, hook
        self._is_stopped = False

    def on_train_begin(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
        del args
        engine, selector = self._engine, self._engine.trainer.selector
        assert selector is not None  # the Trainer has just built it
        engine.selector, engine.position.num_steps = selector, state.max_steps
        engine.ledger.training.start()

    def on_optimizer_step(self, *_: Any, **kwargs: Any) -> None:
        self._engine.position.learning_rate = kwargs["optimizer"].param_groups[0]["lr"]

    def on_step_end(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
        engine, position = self._engine, self._engine.position
        position.step = state.global_step
        engine.ledger.num_losses += 1
        epoch, schedule = engine.selector.epoch or 0, engine.selector.schedule
        engine.progress(f"epoch {epoch + 1}", position.step, position.num_steps)
        per_epoch = -(-schedule.steps(0) // args.gradient_accumulation_steps)
        if position.step % per_epoch and not engine.is_complete:
            self._ask(None)

    def on_epoch_end(self, *_: Any, **__: Any) -> None:
        if not self._is_stopped:
            epoch = self._engine.selector.epoch or 0
            self._engine.position.epoch = epoch + 1
            self._ask(epoch)

    def _ask(self, epoch: int | None) -> None:
        engine, control = self._engine, self._engine.trainer.control
        if self._hook(epoch):
            self._is_stopped = control.should_training_stop = True
        if control.should_save:
            engine.ledger.training.stop()  # until it is saved

    def on_save(self, *_: Any, **__: Any) -> None:
        engine = self._engine
        state = engine.ledger.state()
        if distributed.rank() == 0:  # last of all files
            write_json(engine.checkpoint_of(engine.position.step) / _LEDGER, state)
        engine.ledger.training.start()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self._engine.ledger.training.stop()
