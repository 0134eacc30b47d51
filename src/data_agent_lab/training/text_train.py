"""One run of a language task: a Trainer's loop, with what every run of the lab writes down."""

from __future__ import annotations

import json
import logging
import shutil
import time
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging as their_logging

from data_agent import Selector
from data_agent.errors import InputError
from data_agent.runtime import distributed
from data_agent_lab.data.texts import LanguageData
from data_agent_lab.methods import FULL, check_fits_language, is_batch_selector
from data_agent_lab.progress import Progress, silent
from data_agent_lab.recipes import RunConfig, TextRecipe
from data_agent_lab.runs.folder import RunFolder
from data_agent_lab.training.devices import autocast_at
from data_agent_lab.training.ranks import on_any_rank
from data_agent_lab.training.snapshot import CHECKPOINT_SECONDS
from data_agent_lab.training.text_evaluation import evaluate
from data_agent_lab.training.text_result import (
    AnyTrainer,
    check_harness,
    cost_of,
    make_result,
    metric_of,
    model_of,
)
from data_agent_lab.training.text_trainers import make_trainer
from data_agent_lab.training.train import (
    Speed,
    check_finite,
    is_evaluation_due,
    never,
    prepare_process,
)

logger = logging.getLogger(__name__)

_TRAINER = "trainer"  # folder of the Trainer's checkpoints, in the run's folder
_MODEL = "model"  # and of the trained model


@distributed.together("training")
@distributed.explained()
def train_language(
    config: RunConfig[TextRecipe],
    data: LanguageData,
    folder: RunFolder,
    *,
    jobs: int = 1,
    progress: Progress = silent,
    should_stop: Callable[[], bool] = never,
) -> dict[str, Any] | None:
    """Train one run to its end, from the last checkpoint in its folder if there is one.

    As `lab.train.train`, which says what it owns; the trained model is left in the run's folder
    under `model`, as transformers saves models.

    Args:
        config: the run.
        data: the data of its recipe, without label noise.
        folder: its folder, opened with `open_run`.
        jobs: how many runs train at the same time on this machine, for the record.
        progress: told about every optimizer step.
        should_stop: asked after every optimizer step; True ends the session with a checkpoint.

    Returns:
        The result, as written to the folder; None if the session was stopped before the end.

    Raises:
        DataAgentError: settings or data that cannot be trained with, training diverged, or another
            rank died or hangs.
    """
    has_labels = config.recipe.kind == "text-classification"
    check_fits_language(config.method, has_labels=has_labels)
    if config.recipe.packing and is_batch_selector(config.method):
        raise InputError(
            f"{config.method!r} chooses rows of a batch, and --packing joins them into one row. "
            "Leave out --packing, or take another method."
        )
    check_harness(config.recipe)
    device = prepare_process(config.recipe)
    folder.begin(config.flat(), device=str(device), jobs=jobs)
    with _quiet():
        trainer = make_trainer(config, data, folder.path / _TRAINER, device=device)
        run = _Run(trainer, config, data, folder, progress, should_stop)
        _warm_up(trainer)
        last = _last_checkpoint(folder.path / _TRAINER)
        folder.drop_metrics_after(0 if last is None else _step_of(last))
        trainer.add_callback(run)
        trainer.train(resume_from_checkpoint=last)
        if run.is_stopped:
            return None
        if distributed.rank() == 0:
            trainer.save_model(str(folder.path / _MODEL))
            data.tokenizer.save_pretrained(str(folder.path / _MODEL))
        result = make_result(trainer, config, data, run.last)
        if distributed.rank() == 0:
            shutil.rmtree(folder.path / _TRAINER, ignore_errors=True)
    folder.finish(result)
    return result


class _Run(TrainerCallback):
    """What a run does beside training: metrics, evaluations, checkpoints, and when to stop."""

    def __init__(
        self,
        trainer: AnyTrainer,
        config: RunConfig[TextRecipe],
        data: LanguageData,
        folder: RunFolder,
        progress: Progress,
        should_stop: Callable[[], bool],
    ) -> None:
        self.trainer, self.config, self.data, self.folder = trainer, config, data, folder
        self.is_stopped = False
        self.last: dict[str, Any] = {}
        self._progress, self._should_stop = progress, should_stop
        self._saved_at = time.monotonic()

    @property
    def selector(self) -> Selector:
        """The run's selector, which its Trainer built when training began."""
        assert self.trainer.selector is not None
        return self.trainer.selector

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Start the clock."""
        del args, state, control, kwargs
        self.trainer.stopwatch.start()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Count a step; inside an epoch, stop or save if it is time."""
        del args, kwargs
        self.trainer.ledger.epoch_steps += 1
        epoch = self.selector.epoch or 0
        self._progress(f"epoch {epoch + 1}", state.global_step, state.max_steps)
        if state.global_step < state.max_steps and not self._is_last_of_epoch(state):
            self._save_or_stop(control)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write down how the epoch went; evaluate if that is due."""
        del args, kwargs
        if self.is_stopped:
            return
        with self.trainer.not_training():
            self.last = self._metrics(state)
            self.folder.append_metrics(self.last)
        if state.global_step < state.max_steps:
            self._save_or_stop(control)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Stop the clock."""
        del args, state, control, kwargs
        self.trainer.stop_clock()

    def _is_last_of_epoch(self, state: TrainerState) -> bool:
        """Whether the epoch ends with this step: its end then decides."""
        schedule = self.selector.schedule
        per_epoch = -(-schedule.steps(0) // self.config.recipe.accumulation)
        return state.global_step % per_epoch == 0

    def _save_or_stop(self, control: TrainerControl) -> None:
        is_asked, is_due = on_any_rank(
            self._should_stop(), time.monotonic() - self._saved_at >= CHECKPOINT_SECONDS
        )
        if is_asked:
            self.is_stopped = control.should_training_stop = True
        if is_asked or is_due:
            control.should_save = True
            self._saved_at = time.monotonic()

    def _metrics(self, state: TrainerState) -> dict[str, Any]:
        trainer, ledger = self.trainer, self.trainer.ledger
        trainer.take_losses()
        epoch = self.selector.epoch or 0
        train_loss = ledger.epoch_loss / max(1, ledger.epoch_steps)
        check_finite(train_loss, step=state.global_step, recipe=self.config.recipe)
        ledger.epoch_loss, ledger.epoch_steps = 0.0, 0
        line: dict[str, Any] = {
            "epoch": epoch,
            "step": state.global_step,
            "train_loss": train_loss,
            **cost_of(trainer),
            "train_seconds": ledger.train_seconds,
            "train_cpu_seconds": ledger.train_cpu_seconds,
            "selector": self.selector.metrics(),
        }
        epochs, count = self.selector.schedule.epochs, self.config.recipe.num_evaluations
        is_over = state.global_step >= state.max_steps
        if is_over or is_evaluation_due(epoch, epochs=epochs, count=count):
            line |= self._evaluate(state)
        return line

    def _evaluate(self, state: TrainerState) -> dict[str, Any]:
        recipe, trainer = self.config.recipe, self.trainer
        start = time.perf_counter()
        found = evaluate(
            model_of(trainer),
            self.data,
            autocast=autocast_at(recipe.precision, trainer.args.device),
        )
        trainer.ledger.eval_seconds += time.perf_counter() - start
        check_finite(found["loss"], step=state.global_step, recipe=recipe)
        logger.info(
            "step %d of %d: %s",
            *(state.global_step, state.max_steps),
            ", ".join(f"{name} {value:.4g}" for name, value in found.items()),
        )
        return {**found, "value": found[metric_of(recipe)]}


def _last_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that was written to its end; its Trainer's state comes last."""
    complete = [path.parent for path in folder.glob("checkpoint-*/trainer_state.json")]
    newest = max(complete, key=lambda path: int(path.name.split("-")[1]), default=None)
    return None if newest is None else str(newest)


def _step_of(checkpoint: str) -> int:
    state = json.loads((Path(checkpoint) / "trainer_state.json").read_text(encoding="utf-8"))
    return int(state["global_step"])


def _warm_up(trainer: AnyTrainer) -> None:
    """One batch forward and backward without a step, so that one-time costs are on no clock."""
    rows: Any = [trainer.rows[i] for i in range(min(2, len(trainer.rows)))]
    batch = trainer._prepare_inputs(trainer.data_collator(rows))
    model = model_of(trainer).train()
    with torch.random.fork_rng(), trainer.compute_loss_context_manager():
        model(**batch).loss.backward()
    model.zero_grad(set_to_none=True)


@contextmanager
def _quiet() -> Generator[None]:
    """What frameworks say of their next versions, and their own bars, are not for who trains."""
    has_bars = their_logging.is_progress_bar_enabled()
    their_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            for category in (FutureWarning, DeprecationWarning):
                warnings.filterwarnings("ignore", category=category)
            yield
    finally:
        if has_bars:
            their_logging.enable_progress_bar()


def measure_speed(recipe: TextRecipe, data: LanguageData, *, seconds: float = 2.0) -> Speed:
    """Time some steps of full training and a part of an evaluation; owns the process.

    Args:
        recipe: how to train.
        data: its data.
        seconds: about how long to train.
    """
    device = prepare_process(recipe)
    config = RunConfig(recipe=recipe, keep_ratio=1.0, method=FULL)
    with TemporaryDirectory() as folder, _quiet():
        trainer = make_trainer(config, data, Path(folder), device=device)
        _warm_up(trainer)
        stop = _StopAfter(trainer, seconds)
        trainer.add_callback(stop)
        trainer.train()
        trainer.stop_clock()
        few = replace(data, evaluation=data.evaluation.select(range(min(64, data.num_eval))))
        start = time.perf_counter()
        evaluate(
            model_of(trainer), few, autocast=autocast_at(recipe.precision, trainer.args.device)
        )
        eval_seconds = time.perf_counter() - start
    ledger = trainer.ledger
    return Speed(ledger.train_seconds / ledger.num_forward, eval_seconds / few.num_eval)


class _StopAfter(TrainerCallback):
    def __init__(self, trainer: AnyTrainer, seconds: float) -> None:
        self._trainer, self._seconds = trainer, seconds

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        del args, state, control, kwargs
        self._trainer.stopwatch.start()
        self._end = time.monotonic() + self._seconds

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        del args, state, kwargs
        control.should_training_stop = time.monotonic() >= self._end
