"""A proxy: a short training of the run's own model, made to look at the samples before the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from data_agent.budget.schedule import SelectionSchedule
from data_agent.errors import DataAgentError
from data_agent.runtime.random import Purpose, derived_seed, permutation
from data_agent_lab.progress import Progress, silent
from data_agent_lab.recipes import ImageRecipe
from data_agent_lab.training.models import Network
from data_agent_lab.training.optimisation import learning_rate, make_optimizer

_LOOK_BATCH = 512
_PROXIES = 2  # tells their seeds from those of the agent's networks, 0 and 1


class Images(Protocol):
    """Makes the inputs of a batch, as `Batches` does."""

    def training(self, index: Tensor, *, epoch: int) -> Tensor:
        """The inputs of the training samples `index` (int64 `[B]`, on the CPU)."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Proxy:
    """What a proxy is trained with; a session has all of it.

    Args:
        recipe: of the run.
        keep_ratio: of the run, in (0, 1].
        seed: of the run.
        device: where it computes.
        labels: int64 `[N]` on the CPU, with the run's noise.
        images: makes training batches.
        plain: the same without augmentation.
        make_model: builds the run's model on the device, from torch's global generator.
        autocast: the context of forward passes at the recipe's precision.
        progress: told about every batch.
    """

    recipe: ImageRecipe
    keep_ratio: float
    seed: int
    device: torch.device
    labels: Tensor
    images: Images
    plain: Images
    make_model: Callable[[], Network]
    autocast: Callable[[], AbstractContextManager[Any]]
    progress: Progress = silent

    @property
    def num_kept(self) -> int:
        """K of the run."""
        schedule = SelectionSchedule(
            num_samples=len(self.labels), epochs=1, keep_ratio=self.keep_ratio
        )
        return schedule.num_kept


@dataclass(frozen=True, slots=True, eq=False)
class Visit:
    """A batch of a proxy in training; tensors on the device, detached."""

    epoch: int
    index: Tensor
    logits: Tensor
    features: Tensor


class Work:
    """Trains proxies and counts what they cost.

    Args:
        proxy: how to train.
    """

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.num_forward = 0
        self.num_backward = 0

    def train(self, epochs: int, *, number: int = 0) -> tuple[Network, Iterator[Visit]]:
        """A new network, and the visits that train it as they are asked for."""
        seed = derived_seed(self.proxy.seed, Purpose.NETWORK, _PROXIES, number)
        torch.manual_seed(seed)
        model = self.proxy.make_model()
        return model, self._visits(model, epochs, seed)

    def trained(self, epochs: int, *, number: int = 0) -> Network:
        """A network after its training."""
        model, visits = self.train(epochs, number=number)
        for _ in visits:
            pass
        return model

    @torch.no_grad()
    def look(self, model: Network) -> tuple[Tensor, Tensor]:
        """Logits `[N, C]` and features `[N, D]` of all samples, float32 on the CPU.

        Raises:
            DataAgentError: they are not finite.
        """
        model.eval()
        logits: list[Tensor] = []
        features: list[Tensor] = []
        for index in torch.arange(len(self.proxy.labels)).split(_LOOK_BATCH):
            with self.proxy.autocast():
                seen = model.body(self.proxy.plain.training(index, epoch=0))
                logits.append(model.head(seen).float().cpu())
            features.append(seen.float().cpu())
        self.num_forward += len(self.proxy.labels)
        all_logits = torch.cat(logits)
        if not all_logits.isfinite().all():
            raise DataAgentError(
                "the short training that scores the samples diverged: its outputs are not finite. "
                "Use a lower --learning-rate."
            )
        return all_logits, torch.cat(features)

    def _visits(self, model: Network, epochs: int, seed: int) -> Iterator[Visit]:
        proxy, recipe = self.proxy, self.proxy.recipe
        optimizer = make_optimizer(model, recipe)
        scaler = torch.amp.GradScaler(proxy.device.type, enabled=recipe.precision == "fp16")
        batches = _batches(len(proxy.labels), recipe.batch_size, epochs, seed)
        model.train()
        for step, (epoch, index) in enumerate(batches):
            with proxy.autocast():
                features = model.body(proxy.images.training(index, epoch=epoch))
                logits = model.head(features)
                loss = F.cross_entropy(
                    logits,
                    proxy.labels[index].to(proxy.device),
                    label_smoothing=recipe.label_smoothing,
                )
            rate = learning_rate(
                step, num_steps=len(batches), peak=recipe.learning_rate, schedule=recipe.schedule
            )
            for group in optimizer.param_groups:
                group["lr"] = rate
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            self.num_forward += len(index)
            self.num_backward += len(index)
            proxy.progress("scores", step + 1, len(batches))
            yield Visit(epoch, index, logits.detach().float(), features.detach().float())


def _batches(size: int, batch_size: int, epochs: int, seed: int) -> list[tuple[int, Tensor]]:
    """All batches as (epoch, index), of almost equal sizes: none is left with a single sample."""
    return [
        (epoch, index)
        for epoch in range(epochs)
        for index in permutation(size, seed, Purpose.ORDER, epoch).tensor_split(
            -(-size // batch_size)
        )
    ]
