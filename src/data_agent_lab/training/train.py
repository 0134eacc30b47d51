"""The one training loop that all methods are compared in."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_agent import BatchSelector, Feedback
from data_agent.errors import DataAgentError
from data_agent.runtime import distributed
from data_agent_lab.data.image_data import ImageData
from data_agent_lab.methods import FULL
from data_agent_lab.progress import Progress, silent
from data_agent_lab.recipes import ImageRecipe, Recipe, RunConfig
from data_agent_lab.runs.folder import RunFolder
from data_agent_lab.training.devices import Stopwatch
from data_agent_lab.training.evaluation import EVAL_BATCH, evaluate_batch
from data_agent_lab.training.evaluation import evaluate as _evaluate
from data_agent_lab.training.optimisation import learning_rate, rate_at
from data_agent_lab.training.ranks import (
    Sharding,
    added_up,
    check_same_place,
    choose_rank_device,
    on_any_rank,
    rows_of_all,
)
from data_agent_lab.training.session import Session, start_session
from data_agent_lab.training.snapshot import Checkpoints, restore_session

logger = logging.getLogger(__name__)


def never() -> bool:
    """Do not stop."""
    return False


@distributed.together("training")
@distributed.explained()
def train(
    config: RunConfig[ImageRecipe],
    data: ImageData,
    folder: RunFolder,
    *,
    jobs: int = 1,
    progress: Progress = silent,
    should_stop: Callable[[], bool] = never,
    sharding: Sharding = "ddp",
) -> dict[str, Any] | None:
    """Train one run to its end, from the checkpoint in its folder if there is one.

    It owns the process: torch's global generator is seeded, its number of threads is set.
    A run that was stopped and continued is, on the CPU, bitwise the run that was not stopped.
    On several ranks all call it, and any of them may be asked to stop.

    Args:
        config: the run.
        data: the data of its recipe, without label noise.
        folder: its folder, opened with `open_run`.
        jobs: how many runs train at the same time on this machine, for the record.
        progress: told about every batch.
        should_stop: asked after every optimizer step; True ends the session with a checkpoint.
        sharding: how several ranks share the model, see `lab.ranks.spread`.

    Returns:
        The result, as written to the folder; None if the session was stopped before the end.

    Raises:
        DataAgentError: training diverged, the checkpoint does not fit, the device is not there, or
            another rank died or hangs.
    """
    device = prepare_process(config.recipe)
    folder.begin(config.flat(), device=str(device), jobs=jobs)
    session = start_session(
        config, data, folder.path, device=device, progress=progress, sharding=sharding
    )
    state = folder.load_checkpoint()
    check_same_place(state)
    if state is not None:
        restore_session(session, state)
    folder.drop_metrics_after(session.position.step, before_epoch=session.position.epoch)
    if session.position.batch > 0 and session.batches_left() == 0:
        _end_epoch(session, folder)  # its rest is too small for as many ranks as there are now
        Checkpoints(session, folder).save()
    if not _run_epochs(session, folder, progress, should_stop):
        return None
    result = _result(session, data, folder.metrics()[-1])
    folder.finish(result)
    return result


def prepare_process(recipe: Recipe) -> torch.device:
    """Set the number of threads, and return the device to compute on.

    Raises:
        InputError: no such device here.
    """
    device = choose_rank_device(recipe.device)
    if recipe.num_threads is not None:
        torch.set_num_threads(recipe.num_threads)
    return device


def _run_epochs(
    session: Session, folder: RunFolder, progress: Progress, should_stop: Callable[[], bool]
) -> bool:
    """Train epoch by epoch; False if stopped before the end."""
    if session.is_complete:
        return True  # only its result is missing
    checkpoints = Checkpoints(session, folder)

    def pause() -> bool:
        """Save where it is time to, on all ranks; whether any of them was asked to stop."""
        is_asked, is_due = on_any_rank(should_stop(), checkpoints.is_due())
        if is_due and not is_asked:  # a run that stops saves at its end
            session.stopwatch.stop()
            checkpoints.save()
            session.stopwatch.start()
        return is_asked

    session.stopwatch.start()  # what the selector does between epochs is part of training
    for epoch in session.selector.epochs():
        is_over = _run_epoch(session, epoch, progress, pause)
        session.stopwatch.stop()
        if is_over:
            _end_epoch(session, folder)
        checkpoints.save()
        if session.is_complete:
            return True
        if not is_over or on_any_rank(should_stop())[0]:
            return False
        session.stopwatch.start()
    return True


def _end_epoch(session: Session, folder: RunFolder) -> None:
    """Write what the epoch came to, and stand before the next one."""
    position = session.position
    position.epoch += 1
    folder.append_metrics(_metrics(session, position.epoch - 1))
    position.batch = 0
    session.loss_sum.zero_()


def _run_epoch(session: Session, epoch: int, progress: Progress, pause: Callable[[], bool]) -> bool:
    """Train to the epoch's or the run's end; False if stopped before.

    Args:
        session: the run.
        epoch: the one that has begun.
        progress: told about every batch.
        pause: called after each optimizer step but the epoch's last, where a checkpoint may be
            written (none holds the gradients of half an accumulation group); True to stop.
    """
    position, accumulation = session.position, session.recipe.accumulation
    num_batches = position.batch + session.batches_left()
    session.model.train()
    for labels, index in _batches(session):
        group_start = position.batch - position.batch % accumulation
        group_size = min(accumulation, num_batches - group_start)
        with distributed.together("a step"), distributed.explained():
            is_last = position.batch + 1 == num_batches
            _backward(session, labels, index, group_size=group_size, is_last=is_last)
        position.batch += 1
        progress(f"epoch {epoch + 1}", position.step, position.num_steps)
        if position.batch - group_start < group_size:
            continue
        _step(session, _rate(session, epoch, num_batches))
        if position.step == position.num_steps:
            return True
        if position.batch < num_batches and pause():
            return False
    return True


def _batches(session: Session) -> Iterator[tuple[Tensor, Tensor]]:
    """The rest of the running epoch's batches: labels int64 `[B]`, index int64 `[B]`.

    A loader's iterator draws a seed for its workers from torch's global generator. An epoch that
    is continued has drawn it before, so the generator is put back.
    """
    generator_state = torch.get_rng_state()
    iterator = iter(session.loader)
    if session.position.batch > 0:
        torch.set_rng_state(generator_state)
    return iterator


def _backward(
    session: Session, labels: Tensor, index: Tensor, *, group_size: int, is_last: bool
) -> None:
    images = session.batches.training(index, epoch=session.position.epoch)
    labels = labels.to(session.device)
    if isinstance(session.selector, BatchSelector):
        images, labels, index = _best_of_pool(session, session.selector, images, labels, index)
    with session.autocast():
        losses = _losses(session, session.forward(images), labels)
    loss = session.selector.learn(losses, index, labels=labels)
    # Whether every rank's batch is known to have its full size.
    is_full = not is_last and not isinstance(session.selector, BatchSelector)
    num_all = rows_of_all(len(index), is_full=is_full)
    # Gradients are averaged over ranks: in proportion to its samples each rank's mean counts.
    share = len(index) / num_all
    session.scaler.scale(loss * (share * distributed.world_size()) / group_size).backward()
    session.loss_sum.add_(loss.detach() * share)
    session.position.num_forward += num_all
    session.position.num_backward += num_all


def _best_of_pool(
    session: Session, selector: BatchSelector, images: Tensor, labels: Tensor, index: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Of a pool that the loader delivered, the batch to train on; costs a forward pass.

    The pass runs in training mode, as in the training step, so that losses are those that training
    would see; the statistics of batch normalisation and the random generators (dropout) are left
    as they were.
    """
    cuda = [session.device] if session.device.type == "cuda" else []
    with (
        torch.no_grad(),
        _statistics_kept(session.model),
        torch.random.fork_rng(cuda),
        session.autocast(),
    ):
        features = session.model.body(images)
        logits = session.model.head(features)
        losses = _losses(session, logits, labels)
    keep = selector.select_batch(Feedback(index, losses, logits, features, labels))
    session.position.num_forward += rows_of_all(len(index), is_full=False)
    chosen = images[keep].contiguous(memory_format=torch.channels_last)
    return chosen, labels[keep], index[keep.cpu()]


@contextmanager
def _statistics_kept(model: nn.Module) -> Generator[None]:
    """Forward passes in training mode leave running statistics of batch normalisation alone."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


def _losses(session: Session, logits: Tensor, labels: Tensor) -> Tensor:
    """Training losses `[B]` of logits `[B, C]`."""
    smoothing = session.recipe.label_smoothing
    return F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)


def _rate(session: Session, epoch: int, num_batches: int) -> float:
    """The learning rate of the next step: by steps, or by epochs where steps are not known."""
    recipe, position = session.recipe, session.position
    peak, schedule = recipe.learning_rate, recipe.schedule
    if not session.is_floating:
        return learning_rate(
            position.step, num_steps=position.num_steps, peak=peak, schedule=schedule
        )
    step, num_steps = (math.ceil(n / recipe.accumulation) for n in (position.batch, num_batches))
    time = (epoch + (step - 0.5) / num_steps) / session.selector.schedule.epochs
    return rate_at(time, peak=peak, schedule=schedule)


def _step(session: Session, rate: float) -> None:
    for group in session.optimizer.param_groups:
        group["lr"] = rate
    session.scaler.step(session.optimizer)
    session.scaler.update()
    session.optimizer.zero_grad()
    session.position.step += 1


def _metrics(session: Session, epoch: int) -> dict[str, Any]:
    """One line for the metrics file at an epoch's end, with an evaluation if one is due."""
    position = session.position
    (loss_sum,) = added_up(float(session.loss_sum))
    train_loss = loss_sum / position.batch
    check_finite(train_loss, step=position.step, recipe=session.recipe)
    line: dict[str, Any] = {
        "epoch": epoch,
        "step": position.step,
        "learning_rate": session.optimizer.param_groups[0]["lr"],
        "train_loss": train_loss,
        "num_forward": position.num_forward,
        "num_backward": position.num_backward,
        "train_seconds": session.stopwatch.seconds,
        "train_cpu_seconds": session.stopwatch.cpu_seconds,
        "selector": session.selector.metrics(),
    }
    epochs, count = session.selector.schedule.epochs, session.recipe.num_evaluations
    if session.is_complete or is_evaluation_due(epoch, epochs=epochs, count=count):
        session.eval_stopwatch.start()
        accuracy, eval_loss = _evaluate(session)
        session.eval_stopwatch.stop()
        check_finite(eval_loss, step=position.step, recipe=session.recipe)
        line |= {"accuracy": accuracy, "eval_loss": eval_loss}
        logger.info(
            "step %d of %d: training loss %.3f, accuracy %.2f %%",
            *(position.step, position.num_steps, train_loss, accuracy),
        )
    return line


def check_finite(loss: float, *, step: int, recipe: Recipe) -> None:
    """Raise `DataAgentError` if a run has diverged."""
    if not math.isfinite(loss):
        raise DataAgentError(
            f"training diverged: at step {step} the loss is {loss}. Use a smaller --learning-rate "
            f"than {recipe.learning_rate}, or another --precision than {recipe.precision}."
        )


def is_evaluation_due(epoch: int, *, epochs: int, count: int) -> bool:
    """True at the end of `count` of the epochs, evenly spread; the last one is among them."""
    return (epoch + 1) * count // epochs > epoch * count // epochs


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds of training and of evaluation a sample."""

    train_sample: float
    eval_sample: float


def measure_speed(recipe: ImageRecipe, data: ImageData, *, seconds: float = 1.0) -> Speed:
    """Time some steps of full training and a batch of evaluation; owns the process as `train` does.

    Args:
        recipe: how to train.
        data: its data.
        seconds: about how long to train.
    """
    device = prepare_process(recipe)
    config = RunConfig(recipe=recipe, keep_ratio=1.0, method=FULL)
    session = start_session(config, data, Path(), device=device)
    session.selector.begin_epoch(0)
    session.model.train()
    watch, num_samples = Stopwatch(device), 0
    for number, (labels, index) in enumerate(session.loader):
        watch.start()
        _backward(session, labels, index, group_size=1, is_last=number + 1 == len(session.loader))
        _step(session, recipe.learning_rate / 100)
        if number == 0 and len(session.loader) > 1:
            continue  # the first step allocates; starting again forgets it
        watch.stop()
        num_samples += len(index)
        if watch.seconds >= seconds:
            break
    index = torch.arange(min(EVAL_BATCH, len(session.eval_labels)))
    evaluate_batch(session, index)
    session.eval_stopwatch.start()
    evaluate_batch(session, index)
    session.eval_stopwatch.stop()
    return Speed(watch.seconds / num_samples, session.eval_stopwatch.seconds / len(index))


def _result(session: Session, data: ImageData, last: dict[str, Any]) -> dict[str, Any]:
    position, recipe = session.position, session.recipe
    full_cost = 3 * len(data.train_labels) * recipe.epochs
    return {
        "status": "finished",
        "metric": "accuracy",
        "unit": "%",
        "value": last["accuracy"],
        "eval_loss": last["eval_loss"],
        "train_loss": last["train_loss"],
        "evaluation": data.evaluation,
        "num_train_samples": len(data.train_labels),
        "num_eval_samples": len(data.eval_labels),
        "num_classes": data.num_classes,
        "num_noisy_labels": session.num_noisy_labels,
        "num_parameters": sum(parameter.numel() for parameter in session.model.parameters()),
        "num_forward": position.num_forward,
        "num_backward": position.num_backward,
        "num_steps": position.step,
        "cost": (position.num_forward + 2 * position.num_backward) / full_cost,
        "train_seconds": session.stopwatch.seconds,
        "train_cpu_seconds": session.stopwatch.cpu_seconds,
        "eval_seconds": session.eval_stopwatch.seconds,
        "overhead_seconds": session.selector.overhead_seconds + position.preparation_seconds,
        "schedule": session.selector.schedule.kind,
        "device": str(session.device),
    }
