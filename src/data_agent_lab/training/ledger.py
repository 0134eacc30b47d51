"""What a run has cost so far, of images and text alike: samples, tokens and seconds."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from data_agent.runtime import distributed
from data_agent_lab.training.ranks import added_up

_COUNTS = ("num_forward", "num_backward", "num_forward_tokens", "num_backward_tokens")


class Stopwatch:
    """Adds up the time between `start` and `stop`, waiting for the work of `device` at both."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._started: tuple[float, float] | None = None
        self.seconds = 0.0
        self.cpu_seconds = 0.0  # of all threads of this process

    def start(self) -> None:
        """Begin to count."""
        self._wait()
        self._started = time.perf_counter(), time.process_time()

    def stop(self) -> bool:
        """Add the time since the start; whether there was one."""
        if self._started is None:
            return False
        self._wait()
        self.seconds += time.perf_counter() - self._started[0]
        self.cpu_seconds += time.process_time() - self._started[1]
        self._started = None
        return True

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        elif self._device.type == "mps":
            torch.mps.synchronize()


class Ledger:
    """Counts of this rank, which `totals` adds up, and this rank's clocks, which wait for `device`.

    Samples that a framework pads an epoch with are paid for, and so they are counted.
    """

    def __init__(self, device: torch.device) -> None:
        self.num_forward = 0  # samples that went through the model to train it
        self.num_backward = 0  # samples that went through its backward pass
        self.num_forward_tokens = 0  # of those samples, without padding; 0 for images
        self.num_backward_tokens = 0
        # Summed over ranks, the sum over the running epoch's batches of a batch's mean loss.
        self.loss_sum = torch.zeros((), device=device)
        self.num_losses = 0  # how many batches these are
        self.training, self.evaluation = Stopwatch(device), Stopwatch(device)  # without checkpoints
        self.preparation_seconds = 0.0  # of training: to make what the method had to be given

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
        was_running = self.training.stop()
        yield
        if was_running:
            self.training.start()

    def totals(self) -> dict[str, int]:
        """The four counts over all ranks; a collective call."""
        sums = added_up(*(getattr(self, name) for name in _COUNTS))
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
