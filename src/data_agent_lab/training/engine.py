"""What a kind of task must bring to be trained: an engine, which `run` drives."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_agent import Selector
from data_agent.losses import IGNORE_INDEX
from data_agent_lab.progress import Progress, silent
from data_agent_lab.recipes import RunConfig
from data_agent_lab.runs.folder import RunFolder
from data_agent_lab.runs.result import Metric
from data_agent_lab.training.ledger import Ledger
from data_agent_lab.training.ranks import added_up

Hook = Callable[[int | None], bool]
"""What an engine calls as it trains: with None after each optimizer step but an epoch's last, and
with an epoch when that is over and the position before the next one. True to stop. Collective."""

ACCURACY, LOSS = Metric("accuracy", "%", "higher"), Metric("loss", "nats", "lower")
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(slots=True)
class Position:
    """How far a run is."""

    epoch: int = 0  # to do, or being done
    batch: int = 0  # batches done in this epoch, in a loop of our own
    step: int = 0  # optimizer steps done
    num_steps: int = 0  # of the whole run; with a floating schedule at most so many
    learning_rate: float = 0.0  # of the last step


class Engine(ABC):
    """Trains, evaluates and saves one run; on several ranks every method is a collective call.

    Args:
        config: the run.
        data: the data of its recipe, without label noise, which is added here.
        folder: of the run.
        device: where it computes.
        progress: told how far it is.

    Raises:
        InputError: what the run asks for cannot be made, or ranks cannot share it.
    """

    eval_batch: ClassVar[int]  # evaluation samples on which its speed is measured
    saves_every_epoch: ClassVar[bool]  # even if no checkpoint is due
    model: Any  # without what shares it among ranks
    selector: Selector
    labels: Any  # int64 [N] on the CPU, as trained on; None where nothing is classified
    true_labels: Any  # the same before any noise; negative of a foreign sample

    def __init__(
        self,
        config: RunConfig[Any],
        data: Any,
        folder: RunFolder,
        *,
        device: torch.device,
        progress: Progress = silent,
    ) -> None:
        self.config, self.recipe, self.data = config, config.recipe, data
        self.folder, self.device, self.progress = folder, device, progress
        self.position, self.ledger = Position(), Ledger(device)
        self.build()

    @abstractmethod
    def build(self) -> None:
        """Make the model and what trains it; seeds torch's global generator."""

    @abstractmethod
    def resume(self) -> tuple[int, float]:
        """Go on from the last checkpoint if there is one.

        Returns:
            The optimizer step that the run is at, and the epoch whose metrics are still to come,
            infinite where the step alone tells which these are.

        Raises:
            CheckpointError: it cannot be used.
        """

    @abstractmethod
    def train(self, hook: Hook) -> None:
        """Train until the run is complete, or the hook says to stop."""

    @abstractmethod
    def evaluate(self, limit: int | None = None) -> dict[str, Any]:
        """As `measure`, on the first `limit` evaluation samples or on all."""

    @abstractmethod
    def save(self) -> None:
        """Write a checkpoint, from within the hook."""

    @abstractmethod
    def facts(self, last: Mapping[str, Any]) -> dict[str, Any]:
        """What the result says about this kind of data, given the last line of metrics."""

    @abstractmethod
    def finish(self) -> None:
        """Leave the trained model in the run's folder, and nothing to resume from."""

    @property
    def metric(self) -> Metric:
        """What runs are compared by: of what `evaluate` returns that of its name."""
        return ACCURACY if self.data.class_names else LOSS

    @property
    def is_complete(self) -> bool:
        """Whether the last epoch is over, or the last step done."""
        position = self.position
        is_over = position.epoch == self.selector.schedule.epochs
        return is_over or position.step == position.num_steps

    def autocast(self) -> torch.autocast:
        """The context of forward passes at the recipe's precision."""
        dtype = _DTYPES[self.recipe.precision]
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype != torch.float32)

    def warm_up(self, loss_of: Callable[[], Tensor]) -> None:
        """Compute gradients of `loss_of()` without a step, so that no clock counts one-time costs.

        Without it the first run of a comparison would pay for threads, kernels and allocations, and
        the others would look faster than they are. To be called before anything watches the model.
        """
        self.model.train()
        with leaving_no_trace(self.model, self.device):
            loss_of().backward()
        self.model.zero_grad(set_to_none=True)

    @contextmanager
    def evaluating(self) -> Generator[None]:
        """Forward passes without a graph, of the model in evaluation mode."""
        was_training = self.model.training
        self.model.eval()
        with torch.no_grad(), self.autocast():
            yield
        self.model.train(was_training)


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


@torch.no_grad()
def measure(
    model: nn.Module, predictions: Iterable[tuple[Tensor, Tensor]], *, num_classes: int
) -> dict[str, Any]:
    """How good a model is: means over all labels that count, of all ranks; a collective call.

    Args:
        model: in evaluation mode while the predictions are made.
        predictions: by batch float32 logits `[M, C]` and int64 labels `[M]` of this rank's part.
        num_classes: C of a classifier, 0 of a language model.

    Returns:
        "loss" in nats. Of a classifier also "accuracy" in percent and "class_accuracy", a list of
        it by class with None where no sample has the class; of a language model "perplexity",
        infinite where a float cannot hold it.
    """
    was_training = model.training
    model.eval()
    loss_sum = count = 0.0
    num_correct, num_of_class = (torch.zeros(num_classes, dtype=torch.int64) for _ in range(2))
    for logits, labels in predictions:
        loss_sum += float(F.cross_entropy(logits, labels, reduction="sum"))
        count += float((labels != IGNORE_INDEX).sum())
        if num_classes:
            correct = labels[logits.argmax(1) == labels]
            num_correct += correct.bincount(minlength=num_classes).cpu()
            num_of_class += labels.bincount(minlength=num_classes).cpu()
    model.train(was_training)
    loss_sum, count, *by_class = added_up(
        loss_sum, count, *num_correct.tolist(), *num_of_class.tolist()
    )
    loss = loss_sum / count
    if not num_classes:
        return {"loss": loss, "perplexity": math.exp(loss) if loss < 700 else math.inf}
    correct, sizes = by_class[:num_classes], by_class[num_classes:]
    return {
        "loss": loss,
        "accuracy": 100 * sum(correct) / count,
        "class_accuracy": [
            100 * right / size if size else None for right, size in zip(correct, sizes, strict=True)
        ],
    }
