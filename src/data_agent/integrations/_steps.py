"""A Trainer's training step: the samples of its batch, and what one of the user's leaves out."""

from __future__ import annotations

from collections.abc import Generator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor

from data_agent.errors import InputError, StateError
from data_agent.loading.collating import INDEX_KEY
from data_agent.selecting.batch_selector import BatchSelector
from data_agent.selecting.feedback import MissingLogitsError
from data_agent.selecting.selector import Selector

_CALL_OURS = (
    "Let your training_step() call super().training_step(model, inputs, num_items_in_batch), which "
    "takes the samples' index out of the batch; a loss of your own belongs in compute_loss()"
)


def take_index(batch: Any) -> Tensor:
    """The index int64 `[B]` of a training batch's samples, on the host, taken out of it.

    Raises:
        StateError: it carries none.
    """
    is_mapping = isinstance(batch, MutableMapping)
    index = cast("Any", batch).pop(INDEX_KEY, None) if is_mapping else None
    if index is None:
        raise StateError(
            "the training batch carries no index of its samples. A get_train_dataloader() of "
            "your own must get its loader from super().get_train_dataloader()."
        )
    return torch.as_tensor(index).cpu()


def check_asked(trainer: Any, unseen: list[Tensor]) -> None:
    """Refuse a training step whose batch never came to our `compute_loss`.

    Raises:
        StateError: it did not.
    """
    if unseen:
        raise StateError(
            f"{type(trainer).__name__}.compute_loss did not call super().compute_loss(), so the "
            "selector learned nothing from this batch. Call it, or put your method below us: "
            "class MyTrainer(SelectiveTrainerMixin, TheirTrainer)."
        )


@contextmanager
def naming_sample_losses(selector: Selector) -> Generator[None]:
    """In the block say of logits that are missing where a Trainer's user hands them over.

    Raises:
        InputError: they are.
    """
    try:
        yield
    except MissingLogitsError as error:
        instead = (
            ", or uncertainty=[B] in [0, 1] where a sample has no single distribution (question "
            "answering: the mean entropy of both positions over log T; all zeros leave the loss)"
        )
        raise InputError(
            f"{selector.name} learns from the model's predictions, and compute_sample_losses "
            "returned losses alone: return SampleLosses(sums, counts, logits=[B, C])"
            f"{'' if selector.needs_logits else instead}."
        ) from error


def check_without_batch(trainer: Any, inputs: Any) -> None:
    """Refuse a loss that is none of an evaluation, though no batch of a training step waits for it.

    Raises:
        StateError: it is asked for a second time where a method chooses inside batches, or the
            batch still holds its index.
    """
    selector, name = trainer.selector, type(trainer).__name__
    if trainer._batch is not None and isinstance(selector, BatchSelector):
        raise StateError(
            f"{name}.compute_loss called super().compute_loss() twice for one batch, of which "
            f"{selector.name} chooses once: the second call would train on all of it. Call it "
            "once, or take a method that selects epochs."
        )
    holds_index = isinstance(inputs, Mapping) and INDEX_KEY in inputs
    if holds_index and trainer._batch is None and torch.is_grad_enabled():
        raise StateError(
            f"{name}.training_step did not call super().training_step(), so the selector would "
            f"learn nothing, and choose nothing. {_CALL_OURS}."
        )


def check_observed_any(trainer: Any) -> None:
    """Refuse a run that took steps of which its selector knows nothing.

    Raises:
        StateError: it did.
    """
    selector = trainer.selector
    if selector.epoch is not None and trainer.state.global_step and not selector.visits:
        raise StateError(
            f"the run took {trainer.state.global_step} steps, but {selector.name} observed not one "
            f"sample: nothing was learned or chosen. {_CALL_OURS}."
        )
