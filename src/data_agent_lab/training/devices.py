"""Where a run computes: choosing the device, and timing what it does."""

from __future__ import annotations

import time

import torch

from data_agent.errors import InputError


def choose_device(name: str) -> torch.device:
    """The device of a recipe.

    Args:
        name: auto (cuda or mps if present, else cpu), or a device as torch names it.

    Raises:
        InputError: no such device here.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", 0)
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"--device {name} cannot be used here: {reason}. Expected auto, cpu, cuda, cuda:1 or "
            "mps."
        ) from error
    return torch.device("cuda", 0) if device == torch.device("cuda") else device


class Stopwatch:
    """Adds up the time between `start` and `stop`, waiting for the work of `device` at both."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._started: tuple[float, float] | None = None
        self.seconds = 0.0
        self.cpu_seconds = 0.0  # of all threads of this process

    @property
    def is_running(self) -> bool:
        """Whether it was started and not stopped."""
        return self._started is not None

    def start(self) -> None:
        """Begin to count."""
        self._wait()
        self._started = time.perf_counter(), time.process_time()

    def stop(self) -> None:
        """Add the time since the start; without a start, nothing."""
        if self._started is None:
            return
        self._wait()
        self.seconds += time.perf_counter() - self._started[0]
        self.cpu_seconds += time.process_time() - self._started[1]
        self._started = None

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        elif self._device.type == "mps":
            torch.mps.synchronize()
