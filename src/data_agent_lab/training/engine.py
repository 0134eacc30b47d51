"""What a kind of task must bring to be trained: an engine, which the skeleton in `run` drives."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from data_agent import Selector
from data_agent_lab.training.ledger import Ledger


@dataclass(slots=True)
class Position:
    """How far a run is."""

    epoch: int = 0  # to do, or being done
    batch: int = 0  # batches done in this epoch, in a loop of our own
    step: int = 0  # optimizer steps done
    num_steps: int = 0  # of the whole run; with a floating schedule at most so many
    learning_rate: float = 0.0  # of the last step


class Hooks(Protocol):
    """What an engine calls as it trains; both are collective calls."""

    def after_step(self) -> bool:
        """Called after each optimizer step but an epoch's last; True to stop."""
        ...

    def after_epoch(self, epoch: int) -> bool:
        """Called when `epoch` is over and the position is before the next one; True to stop."""
        ...


class Engine(Protocol):
    """Trains, evaluates and saves one run.

    Attributes:
        eval_batch: evaluation samples on which its speed can be measured.
        saves_every_epoch: whether each epoch ends with a checkpoint, even if none is due.
        position: how far the run is.
        ledger: what it has cost.
    """

    eval_batch: ClassVar[int]
    saves_every_epoch: ClassVar[bool]
    position: Position
    ledger: Ledger

    @property
    def metric(self) -> str:
        """What runs are compared by, one of the names that `evaluate` returns."""
        ...

    @property
    def selector(self) -> Selector:
        """What chooses the samples."""
        ...

    @property
    def model(self) -> nn.Module:
        """The model, without what shares it among ranks."""
        ...

    def resume(self) -> tuple[int, float]:
        """Go on from the last checkpoint if there is one.

        Returns:
            The optimizer step that the run is at, and the epoch whose metrics are still to come,
            infinite where the step alone tells which these are.
        """
        ...

    def train(self, hooks: Hooks) -> None:
        """Train until the run is complete, or a hook says to stop."""
        ...

    def evaluate(self, limit: int | None = None) -> dict[str, float]:
        """The loss and the metrics by name, on the first `limit` evaluation samples or on all."""
        ...

    def save(self) -> None:
        """Write a checkpoint, from within a hook; a collective call."""
        ...

    def facts(self, last: Mapping[str, Any]) -> dict[str, Any]:
        """What the result says about data and metrics, given the last line of metrics."""
        ...

    def finish(self) -> None:
        """Leave the trained model in the run's folder, and nothing to resume from."""
        ...


def is_complete(engine: Engine) -> bool:
    """Whether the last epoch is over, or the last step done."""
    position = engine.position
    is_over = position.epoch == engine.selector.schedule.epochs
    return is_over or position.step == position.num_steps


@contextmanager
def leaving_no_trace(model: nn.Module, device: torch.device) -> Generator[None]:
    """Forward passes in training mode change neither batch statistics nor torch's generators."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.track_running_stats = False
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


def warm_up(model: nn.Module, device: torch.device, loss_of: Callable[[], Tensor]) -> None:
    """Compute the gradients of one batch without a step, so that no clock counts one-time costs.

    Without it the first run of a comparison would pay for threads, kernels and allocations, and
    the others would look faster than they are.

    Args:
        model: the model, not yet watched or shared among ranks.
        device: where it computes.
        loss_of: a forward pass of `model`.
    """
    model.train()
    with leaving_no_trace(model, device):
        loss_of().backward()
    model.zero_grad(set_to_none=True)
