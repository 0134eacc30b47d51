"""One run: begun or resumed, trained, evaluated when due, saved in time."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from data_agent import BatchSelector
from data_agent.errors import DataAgentError
from data_agent.runtime import distributed
from data_agent_lab.data.origins import origin_columns
from data_agent_lab.detection_recipe import DetectionRecipe
from data_agent_lab.methods import FULL, RANDOM, check_not_refreshed
from data_agent_lab.progress import Progress, Send, Tracker, never, silent
from data_agent_lab.recipes import ImageRecipe, PromptRecipe, Recipe, RunConfig, TextRecipe
from data_agent_lab.runs.folder import RunFolder
from data_agent_lab.runs.result import RunResult
from data_agent_lab.runs.samples import IN_DATA, SAMPLES, kept_rows, write_columns
from data_agent_lab.runs.tracking import tracked
from data_agent_lab.training.engine import Engine
from data_agent_lab.training.images import ImageEngine
from data_agent_lab.training.prompts import PromptEngine, check_one_process
from data_agent_lab.training.ranks import check_same_step, choose_device, on_any_rank
from data_agent_lab.training.visited import shares_visited

logger = logging.getLogger(__name__)

CHECKPOINT_SECONDS = 300.0  # of training between two checkpoints at most; what a kill may cost
_REACHED = ("value", "eval_loss", "train_loss", "num_forward", "num_backward")


@distributed.together("training")
@distributed.explained()
def train_run(
    config: RunConfig[Any],
    data: Any,
    folder: RunFolder,
    *,
    jobs: int = 1,
    tracker: Tracker | None = None,
    progress: Progress = silent,
    should_stop: Callable[[], bool] = never,
) -> dict[str, Any] | None:
    """Train one run to its end, from the checkpoint in its folder if there is one.

    It owns the process: torch's global generator is seeded, its number of threads is set.
    A run that was stopped and continued is, on the CPU, bitwise the run that was not stopped.
    On several ranks all call it, and any of them may be asked to stop; rank 0 writes the folder.

    Args:
        config: the run.
        data: what `tasks.load_task` gave for its recipe.
        folder: its folder, opened with `open_run`.
        jobs: how many runs train at the same time on this machine, for the record.
        tracker: where lines of metrics are sent besides the folder.
        progress: told about every batch or optimizer step.
        should_stop: asked after every optimizer step; True ends the session with a checkpoint.

    Returns:
        The `RunResult` as written to the folder; None if the session was stopped before the end.

    Raises:
        DataAgentError: settings or data that cannot be trained with, training diverged, the
            checkpoint does not fit, the device is not there, or another rank died or hangs.
    """
    engine_class, device = _begin(config)
    is_writer = distributed.rank() == 0
    if is_writer:
        folder.begin(config.flat(), device=str(device), jobs=jobs)
    kept = _kept(config.recipe, data)  # now: the file may be another one when the run ends
    engine = engine_class(config, data, folder, device=device, progress=progress)
    step, epoch = engine.resume()
    check_same_step(step)
    if is_writer:
        folder.drop_metrics_after(step, before_epoch=epoch)
    with tracked(tracker if is_writer else None, folder, config.name, step=step) as send:
        monitor = _Monitor(engine, should_stop, send)
        engine.train(monitor)
    if not engine.is_complete:
        return None
    last = monitor.last or folder.metrics()[-1]  # only the result was missing
    result = _result(engine, last).as_dict()
    table = engine.selector.table()
    if is_writer:
        table |= _in_data(config.recipe, data, kept)
        write_columns(folder.path / SAMPLES, table, class_names=engine.data.class_names)
        engine.finish()
        folder.finish(result)
    return result


def _kept(recipe: Recipe, data: Any) -> NDArray[np.int64] | None:
    """Positions of the samples that the recipe keeps; None of all."""
    if recipe.keep_index is None:
        return None
    return kept_rows(Path(recipe.keep_index), data.num_train, data.num_trusted)


def _in_data(recipe: Recipe, data: Any, kept: NDArray[np.int64] | None) -> dict[str, NDArray[Any]]:
    """Columns that say where in the user's data each sample of a run is."""
    is_packed = isinstance(recipe, TextRecipe) and recipe.packing  # a sample is of several rows
    columns = {} if is_packed else origin_columns(data)
    if kept is None:
        return columns
    return {IN_DATA: kept, **{name: column[kept] for name, column in columns.items()}}


def _begin(config: RunConfig[Any]) -> tuple[type[Engine], torch.device]:
    """The engine of the run's kind of task, and the device to compute on; sets torch's threads.

    Raises:
        InputError: the engine cannot train the run, or there is no such device.
    """
    engine_class = ImageEngine
    if isinstance(config.recipe, ImageRecipe):
        check_not_refreshed(config.method)
    elif isinstance(config.recipe, PromptRecipe):
        check_one_process()
        engine_class = PromptEngine
    elif isinstance(config.recipe, DetectionRecipe):
        from data_agent_lab.training.detection import DetectionEngine, check_detection

        check_detection(config)
        engine_class = DetectionEngine
    elif isinstance(config.recipe, TextRecipe):
        # Importing the frameworks takes seconds, which only runs on text need to wait for.
        from data_agent_lab.training.text import TextEngine, check_text

        check_text(config)
        engine_class = TextEngine
    device = choose_device(config.recipe.device)
    if config.recipe.num_threads is not None:
        torch.set_num_threads(config.recipe.num_threads)
    return engine_class, device


class _Monitor:
    """What a run does beside training: metrics, evaluations, checkpoints, and when to stop."""

    def __init__(self, engine: Engine, should_stop: Callable[[], bool], send: Send) -> None:
        self._engine, self._should_stop, self._send = engine, should_stop, send
        self._saved_at = time.monotonic()
        self.last: dict[str, Any] = {}  # line of metrics

    def __call__(self, epoch: int | None) -> bool:
        engine, ledger = self._engine, self._engine.ledger
        if epoch is not None:
            if engine.is_complete:
                ledger.training.stop()
            with ledger.paused():
                self.last = self._metrics(epoch)
                if distributed.rank() == 0:
                    engine.folder.append_metrics(self.last)
                    self._send(self.last)
                ledger.begin_epoch()
        is_asked = is_due = False
        if not engine.is_complete:
            is_old = time.monotonic() - self._saved_at >= CHECKPOINT_SECONDS
            is_asked, is_due = on_any_rank(self._should_stop(), is_old)
        if is_asked or is_due or (epoch is not None and engine.saves_every_epoch):
            with ledger.paused():
                engine.save()
            self._saved_at = time.monotonic()
        return is_asked

    def _metrics(self, epoch: int) -> dict[str, Any]:
        """One line for the metrics file at an epoch's end, with an evaluation if one is due."""
        engine, ledger, position = self._engine, self._engine.ledger, self._engine.position
        train_loss = ledger.train_loss()
        self._check_finite(train_loss)
        line: dict[str, Any] = {
            "epoch": epoch,
            "step": position.step,
            "learning_rate": position.learning_rate,
            "train_loss": train_loss,
            **ledger.totals(),
            "train_seconds": ledger.training.seconds,
            "train_cpu_seconds": ledger.training.cpu_seconds,
            "selector": engine.selector.metrics(),
            **_visited(engine, epoch),
        }
        epochs, count = engine.selector.schedule.epochs, engine.recipe.num_evaluations
        # Evenly spread, and one is at the end.
        is_due = (epoch + 1) * count // epochs > epoch * count // epochs
        if not is_due and not engine.is_complete:
            return line
        ledger.evaluation.start()
        found = engine.evaluate()
        ledger.evaluation.stop()
        self._check_finite(found["loss"])
        logger.info(
            "step %d of %d: training loss %.3f, evaluation %s",
            *(position.step, position.num_steps, train_loss),
            ", ".join(f"{name} {found[name]:.4g}" for name in found if name != "class_accuracy"),
        )
        by_class = found.pop("class_accuracy", None)
        if by_class and engine.is_complete:
            line["class_accuracy"] = by_class
        return line | {"value": found[engine.metric.name], "eval_loss": found.pop("loss"), **found}

    def _check_finite(self, loss: float) -> None:
        if not math.isfinite(loss):
            step, recipe = self._engine.position.step, self._engine.recipe
            raise DataAgentError(
                f"training diverged: at step {step} the loss is {loss}. Use a smaller "
                f"--learning-rate than {recipe.learning_rate}, or another --precision than "
                f"{recipe.precision}."
            )


def _visited(engine: Engine, epoch: int) -> dict[str, Any]:
    """What the epoch's samples were; nothing where a method chooses inside batches."""
    if engine.true_labels is None:
        return {}
    if isinstance(engine.selector, BatchSelector):
        return {}
    index = engine.selector.select(epoch).index
    trusted = engine.selector.trusted
    return {"visited": shares_visited(index, engine.labels, engine.true_labels, trusted)}


def _result(engine: Engine, last: dict[str, Any]) -> RunResult:
    """What a run came to, from its engine and its last line of metrics."""
    ledger, selector, data = engine.ledger, engine.selector, engine.data
    facts, num_samples = engine.facts(last), selector.schedule.num_samples
    weights = list(engine.model.parameters())

    def cost_of(size: int, unit: str) -> float:
        trained = last[f"num_forward{unit}"] + 2 * last[f"num_backward{unit}"]
        return trained / (3 * size * engine.recipe.epochs)

    num_tokens = facts.get("num_train_tokens")
    return RunResult(
        **facts,
        metric=engine.metric.name,
        unit=engine.metric.unit,
        direction=engine.metric.direction,
        num_train_samples=num_samples,
        num_eval_samples=data.num_eval,
        num_classes=len(data.class_names),
        num_parameters=sum(weight.numel() for weight in weights),
        num_trained_parameters=sum(w.numel() for w in weights if w.requires_grad),
        class_accuracy=_by_name(data.class_names, last.get("class_accuracy")),
        **{name: last[name] for name in _REACHED},
        num_steps=last["step"],
        cost=cost_of(num_samples, ""),
        token_cost=None if num_tokens is None else cost_of(num_tokens, "_tokens"),
        train_seconds=ledger.training.seconds,
        train_cpu_seconds=ledger.training.cpu_seconds,
        eval_seconds=ledger.evaluation.seconds,
        overhead_seconds=selector.overhead_seconds + ledger.preparation_seconds,
        schedule=selector.schedule.kind,
        device=str(engine.device),
    )


def _by_name(
    names: Sequence[str], accuracies: Sequence[float | None] | None
) -> dict[str, float] | None:
    """By class its accuracy, where there are samples to measure it."""
    if accuracies is None:
        return None
    found = zip(names, accuracies, strict=True)
    return {name: accuracy for name, accuracy in found if accuracy is not None}


class Speed(NamedTuple):
    """Seconds of training and of evaluation a sample."""

    train_sample: float
    eval_sample: float


def measure_speed(recipe: Recipe, data: Any, *, seconds: float = 1.0) -> Speed:
    """Time about so many seconds of full training and a part of an evaluation; owns the process."""
    slow = replace(recipe, learning_rate=recipe.learning_rate / 100)  # nothing diverges
    method = RANDOM if isinstance(recipe, PromptRecipe) else FULL
    config = RunConfig(recipe=slow, keep_ratio=1.0, method=method)
    engine_class, device = _begin(config)
    readings: list[tuple[float, int]] = []
    with TemporaryDirectory() as path:
        engine = engine_class(config, data, RunFolder(Path(path)), device=device)
        ledger, clock = engine.ledger, engine.ledger.evaluation

        def read(epoch: int | None) -> bool:
            del epoch
            with ledger.paused():
                readings.append((ledger.training.seconds, ledger.num_forward))
            return readings[-1][0] - readings[0][0] >= seconds

        engine.train(read)
        engine.evaluate(engine.eval_batch)  # its first time allocates
        clock.start()
        engine.evaluate(engine.eval_batch)
        clock.stop()
    # From the end of the first step, which allocates, if there are more.
    start = readings[0] if len(readings) > 1 else (0.0, 0)
    time_taken, num_samples = readings[-1][0] - start[0], readings[-1][1] - start[1]
    num_eval = min(engine.eval_batch, data.num_eval)
    return Speed(time_taken / num_samples, clock.seconds / num_eval)
