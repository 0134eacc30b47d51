"""The one training loop that all methods are compared in."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from data_agent._errors import DataAgentError
from data_agent.lab import checkpoint
from data_agent.lab.config import TrainConfig
from data_agent.lab.data import ImageData
from data_agent.lab.optimisation import learning_rate
from data_agent.lab.progress import Progress, silent
from data_agent.lab.runs import RunFolder
from data_agent.lab.session import Session, restore_session, session_state, start_session

logger = logging.getLogger(__name__)

_EVAL_BATCH = 512


def never() -> bool:
    """Do not stop."""
    return False


def train(
    config: TrainConfig,
    data: ImageData,
    folder: RunFolder,
    *,
    progress: Progress = silent,
    should_stop: Callable[[], bool] = never,
) -> dict[str, Any] | None:
    """Train one run to its end, from the checkpoint in its folder if there is one.

    A run that was stopped and continued is, on the CPU, bitwise the run that was not stopped.

    Args:
        config: the run.
        data: the data of its recipe, without label noise.
        folder: its folder, opened with `open_run`.
        progress: told about every batch.
        should_stop: asked after every optimizer step; True ends the session with a checkpoint.

    Returns:
        The result, as written to the folder; None if the session was stopped before the end.

    Raises:
        DataAgentError: training diverged, or the checkpoint does not fit.
    """
    session = start_session(config, data)
    if folder.checkpoint.is_file():
        restore_session(session, checkpoint.load(folder.checkpoint))
    folder.drop_metrics_after(session.position.step)
    folder.begin(config.flat(), device=str(session.device))
    if not _run_epochs(session, folder, progress, should_stop):
        return None
    result = _result(session, data, folder.metrics()[-1])
    folder.finish(result)
    return result


def _run_epochs(
    session: Session, folder: RunFolder, progress: Progress, should_stop: Callable[[], bool]
) -> bool:
    """Train epoch by epoch; False if stopped before the end."""
    position = session.position
    if position.step == session.num_steps:
        return True  # only its result is missing
    session.stopwatch.start()  # what the selector does between epochs is part of training
    for epoch in session.selector.epochs():
        is_complete = _run_epoch(session, epoch, progress, should_stop)
        session.stopwatch.stop()
        if is_complete:
            folder.append_metrics(_metrics(session, epoch))
            position.epoch, position.batch = epoch + 1, 0
            session.loss_sum.zero_()
        checkpoint.save(folder.checkpoint, session_state(session))
        if position.step == session.num_steps:
            return True
        if not is_complete or should_stop():
            return False
        session.stopwatch.start()
    return True


def _run_epoch(
    session: Session, epoch: int, progress: Progress, should_stop: Callable[[], bool]
) -> bool:
    """Train to the epoch's or the run's end; False if stopped before.

    Stopping waits for the end of an accumulation group, whose gradients no checkpoint holds.
    """
    position, accumulation = session.position, session.recipe.accumulation
    num_batches = session.selector.schedule.steps(epoch)
    session.model.train()
    for labels, index in _batches(session):
        group_start = position.batch - position.batch % accumulation
        group_size = min(accumulation, num_batches - group_start)
        _backward(session, labels, index, epoch=epoch, group_size=group_size)
        position.batch += 1
        progress(f"epoch {epoch + 1}", position.step, session.num_steps)
        if position.batch - group_start < group_size:
            continue
        _step(session)
        if position.step == session.num_steps:
            return True
        if should_stop() and position.batch < num_batches:
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
    session: Session, labels: Tensor, index: Tensor, *, epoch: int, group_size: int
) -> None:
    images = session.batches.training(index, epoch=epoch)
    labels = labels.to(session.device)
    with session.autocast():
        logits = session.model(images)
        losses = F.cross_entropy(
            logits, labels, reduction="none", label_smoothing=session.recipe.label_smoothing
        )
    loss = session.selector.learn(losses, index, labels=labels)
    session.scaler.scale(loss / group_size).backward()
    session.loss_sum.add_(loss.detach())
    session.position.num_forward += len(index)
    session.position.num_backward += len(index)


def _step(session: Session) -> None:
    recipe = session.recipe
    rate = learning_rate(
        session.position.step,
        num_steps=session.num_steps,
        peak=recipe.learning_rate,
        schedule=recipe.schedule,
    )
    for group in session.optimizer.param_groups:
        group["lr"] = rate
    session.scaler.step(session.optimizer)
    session.scaler.update()
    session.optimizer.zero_grad()
    session.position.step += 1


def _metrics(session: Session, epoch: int) -> dict[str, Any]:
    """One line for the metrics file at an epoch's end, with an evaluation if one is due."""
    position = session.position
    train_loss = float(session.loss_sum) / position.batch
    _check_finite(session, train_loss)
    line: dict[str, Any] = {
        "epoch": epoch,
        "step": position.step,
        "learning_rate": session.optimizer.param_groups[0]["lr"],
        "train_loss": train_loss,
        "num_forward": position.num_forward,
        "num_backward": position.num_backward,
        "train_seconds": session.stopwatch.seconds,
        "selector": session.selector.metrics(),
    }
    if _is_evaluation_due(session, epoch):
        accuracy, eval_loss = _evaluate(session)
        _check_finite(session, eval_loss)
        line |= {"accuracy": accuracy, "eval_loss": eval_loss}
        logger.info(
            "step %d of %d: training loss %.3f, accuracy %.2f %%",
            *(position.step, session.num_steps, train_loss, accuracy),
        )
    return line


def _check_finite(session: Session, loss: float) -> None:
    if not math.isfinite(loss):
        raise DataAgentError(
            f"training diverged: at step {session.position.step} the loss is {loss}. Use a smaller "
            f"--learning-rate than {session.recipe.learning_rate}, or another --precision than "
            f"{session.recipe.precision}."
        )


def _is_evaluation_due(session: Session, epoch: int) -> bool:
    """True at evenly spread epochs, and at the run's end."""
    if session.position.step == session.num_steps:
        return True
    count, epochs = session.recipe.num_evaluations, session.selector.schedule.epochs
    return (epoch + 1) * count // epochs > epoch * count // epochs


@torch.inference_mode()
def _evaluate(session: Session) -> tuple[float, float]:
    """Accuracy in percent, and mean loss, over the evaluation samples."""
    session.model.eval()
    labels = session.eval_labels
    num_correct, loss_sum = 0, 0.0
    for index in torch.arange(len(labels)).split(_EVAL_BATCH):
        expected = labels[index.to(labels.device)]
        with session.autocast():
            logits = session.model(session.batches.evaluation(index)).float()
        num_correct += int((logits.argmax(1) == expected).sum())
        loss_sum += float(F.cross_entropy(logits, expected, reduction="sum"))
    session.model.train()
    return 100 * num_correct / len(labels), loss_sum / len(labels)


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
        "overhead_seconds": session.selector.overhead_seconds,
        "device": str(session.device),
    }
