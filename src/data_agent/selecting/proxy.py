"""A proxy: short trainings of the user's model, from which a method makes what it must be given.

Some methods need a value of each sample before training begins, such as a score. `Method.prepare`
makes it from a `Proxy`, which the program that trains provides: data_agent_lab has one, and any
object with these attributes and methods serves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["Network", "Proxy", "Visit"]


@dataclass(frozen=True, slots=True, eq=False)
class Visit:
    """A batch in a network's training; detached, as it was before the optimizer's step.

    Args:
        epoch: of the short training, from 0.
        index: int64 `[B]` on the CPU, its samples.
        logits: float32 `[B, C]` on the proxy's device.
        features: float32 `[B, D]` on the proxy's device, the input of the last layer.
    """

    epoch: int
    index: Tensor
    logits: Tensor
    features: Tensor


class Network(Protocol):
    """A network after its short training."""

    def look(self) -> tuple[Tensor, Tensor]:
        """Logits `[N, C]` and features `[N, D]`, float32 on the CPU, without augmentation."""
        ...


class Proxy(Protocol):
    """What a short training of the run's model can offer; all of it counts as cost of the run."""

    @property
    def labels(self) -> Tensor:
        """int64 `[N]` on the CPU, each sample's class as the run sees it."""
        ...

    @property
    def seed(self) -> int:
        """Of the run."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the networks compute."""
        ...

    def train(
        self, epochs: int, *, number: int = 0, on_batch: Callable[[Visit], None] | None = None
    ) -> Network:
        """Train a new network on all samples; its learning rate is fully decayed at the end.

        Args:
            epochs: 1 or more.
            number: tells several networks of one run apart: another one has another seed.
            on_batch: told of each batch, once the network was trained on it.
        """
        ...

    def clusters(self, features: Tensor, count: int) -> Tensor:
        """int64 `[N]`: to which of `count` clusters k-means assigns each row of `[N, D]`."""
        ...

    def near_duplicates(self) -> Tensor:
        """int64 `[N]`, equal for near-duplicates, as `data_agent.duplicates` finds them."""
        ...
