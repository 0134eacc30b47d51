"""What a run has cost so far, of images and text alike: samples, tokens and seconds."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from data_agent.runtime import distributed
from data_agent_lab.training.devices import Stopwatch
from data_agent_lab.training.ranks import added_up

_COUNTS = ("num_forward", "num_backward", "num_forward_tokens", "num_backward_tokens")


class Ledger:
    """Counts of this rank, which `totals` adds up, and this rank's clocks.

    Samples that a framework pads an epoch with are paid for, and so they are counted.

    Args:
        device: whose work the clocks wait for.

    Attributes:
        num_forward: samples that went through the model to train it.
        num_backward: samples that went through its backward pass.
        num_forward_tokens: tokens of those samples, without padding; 0 for images.
        num_backward_tokens: as above.
        loss_sum: float32 scalar on the device; summed over ranks, it is the sum over the batches of
            the running epoch of a batch's mean loss.
        num_losses: how many batches these are.
        training: time of training, without evaluation and checkpoints.
        evaluation: time of evaluation.
        preparation_seconds: of the time of training what was spent beforehand, on what the method
            had to be given.
    """

    def __init__(self, device: torch.device) -> None:
        self.num_forward = self.num_backward = 0
        self.num_forward_tokens = self.num_backward_tokens = 0
        self.loss_sum = torch.zeros((), device=device)
        self.num_losses = 0
        self.training, self.evaluation = Stopwatch(device), Stopwatch(device)
        self.preparation_seconds = 0.0

    def count(self, samples: int, tokens: int = 0, *, is_backward: bool = True) -> None:
        """Count samples of this rank that went forward and, except for scoring, backward."""
        self.num_forward += samples
        self.num_forward_tokens += tokens
        if is_backward:
            self.num_backward += samples
            self.num_backward_tokens += tokens

    @contextmanager
    def paused(self) -> Generator[None]:
        """The block does not count as time of training."""
        was_running = self.training.is_running
        self.training.stop()
        yield
        if was_running:
            self.training.start()

    def totals(self) -> dict[str, int]:
        """The four counts over all ranks; a collective call."""
        sums = added_up(*(float(getattr(self, name)) for name in _COUNTS))
        return {name: int(value) for name, value in zip(_COUNTS, sums, strict=True)}

    def train_loss(self) -> float:
        """The mean loss of the running epoch so far, over all ranks; a collective call."""
        (loss_sum,) = added_up(float(self.loss_sum))
        return loss_sum / max(1, self.num_losses)

    def begin_epoch(self) -> None:
        """Forget the losses of the last epoch."""
        self.loss_sum.zero_()
        self.num_losses = 0

    def state(self) -> dict[str, Any]:
        """All of it, of all ranks, as JSON knows it; a collective call."""
        return {
            **self.totals(),
            "loss_sums": distributed.gather_rows(self.loss_sum.reshape(1))[0].tolist(),
            "num_losses": self.num_losses,
            "train_seconds": self.training.seconds,
            "train_cpu_seconds": self.training.cpu_seconds,
            "eval_seconds": self.evaluation.seconds,
            "preparation_seconds": self.preparation_seconds,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from `state`, on as many ranks or on another number; rank 0 holds the counts."""
        for name in _COUNTS:
            setattr(self, name, state[name] if distributed.rank() == 0 else 0)
        losses = torch.tensor(state["loss_sums"])
        self.loss_sum.copy_(distributed.rows_to_resume(losses, [1] * len(losses)).sum())
        self.num_losses = state["num_losses"]
        self.training.seconds = state["train_seconds"]
        self.training.cpu_seconds = state["train_cpu_seconds"]
        self.evaluation.seconds = state["eval_seconds"]
        self.preparation_seconds = state["preparation_seconds"]
