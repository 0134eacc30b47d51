"""A proxy: a short training of the run's own model, made to look at the samples before the run.

The model is freshly initialised and trained on all samples with the labels that the run sees, noise
included; its learning rate is fully decayed at the end. Samples are looked at without augmentation,
in evaluation mode.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.cluster import MiniBatchKMeans
from torch import Tensor

from data_agent.errors import DataAgentError
from data_agent.runtime.random import Purpose, derived_seed, permutation
from data_agent.selecting.proxy import Visit
from data_agent_lab.progress import Progress, silent
from data_agent_lab.recipes import ImageRecipe
from data_agent_lab.training.batches import Batches
from data_agent_lab.training.models import Network
from data_agent_lab.training.optimisation import learning_rate, make_optimizer

_LOOK_BATCH = 512
_PROXIES = 2  # tells their seeds from those of the agent's networks, 0 and 1


@dataclass(kw_only=True, slots=True, eq=False)
class Proxy:
    """Trains networks as the run would, and counts what they cost: a `Proxy` of the library.

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
    images: Batches
    plain: Batches
    make_model: Callable[[], Network]
    autocast: Callable[[], AbstractContextManager[Any]]
    progress: Progress = silent
    num_forward: int = field(default=0, init=False)
    num_backward: int = field(default=0, init=False)

    def train(
        self, epochs: int, *, number: int = 0, on_batch: Callable[[Visit], None] | None = None
    ) -> _Trained:
        """A new network after its training, as the library's `Proxy` says."""
        seed, recipe = derived_seed(self.seed, Purpose.NETWORK, _PROXIES, number), self.recipe
        torch.manual_seed(seed)
        model = self.make_model().train()
        optimizer = make_optimizer(model, recipe)
        scaler = torch.amp.GradScaler(self.device.type, enabled=recipe.precision == "fp16")
        batches = _batches(len(self.labels), recipe.batch_size, epochs, seed)
        for step, (epoch, index) in enumerate(batches):
            rate = learning_rate(
                step, num_steps=len(batches), peak=recipe.learning_rate, schedule=recipe.schedule
            )
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss, visit = self._forward(model, epoch, index)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            self.num_forward += len(index)
            self.num_backward += len(index)
            self.progress("scores", step + 1, len(batches))
            if on_batch is not None:
                on_batch(visit)
        return _Trained(self, model)

    def clusters(self, features: Tensor, count: int) -> Tensor:
        """int64 `[N]`: k-means over the rows of `[N, D]`."""
        seed = derived_seed(self.seed, Purpose.SUBSET) % (1 << 32)
        means: Any = MiniBatchKMeans(count, random_state=seed, n_init="auto")
        return torch.from_numpy(means.fit_predict(features.numpy())).long()

    def _forward(self, model: Network, epoch: int, index: Tensor) -> tuple[Tensor, Visit]:
        with self.autocast():
            features = model.body(self.images.training(index, epoch=epoch))
            logits = model.head(features)
            labels = self.labels[index].to(self.device)
            loss = F.cross_entropy(logits, labels, label_smoothing=self.recipe.label_smoothing)
        return loss, Visit(epoch, index, logits.detach().float(), features.detach().float())


class _Trained:
    """A network after its training."""

    def __init__(self, proxy: Proxy, model: Network) -> None:
        self._proxy, self._model = proxy, model

    @torch.no_grad()
    def look(self) -> tuple[Tensor, Tensor]:
        """Logits `[N, C]` and features `[N, D]` of all samples, float32 on the CPU.

        Raises:
            DataAgentError: they are not finite.
        """
        proxy, model = self._proxy, self._model.eval()
        logits: list[Tensor] = []
        features: list[Tensor] = []
        for index in torch.arange(len(proxy.labels)).split(_LOOK_BATCH):
            with proxy.autocast():
                seen = model.body(proxy.plain.training(index, epoch=0))
                logits.append(model.head(seen).float().cpu())
            features.append(seen.float().cpu())
        proxy.num_forward += len(proxy.labels)
        all_logits = torch.cat(logits)
        if not all_logits.isfinite().all():
            raise DataAgentError(
                "the short training that scores the samples diverged: its outputs are not finite. "
                "Use a lower --learning-rate."
            )
        return all_logits, torch.cat(features)


def _batches(size: int, batch_size: int, epochs: int, seed: int) -> list[tuple[int, Tensor]]:
    """All batches as (epoch, index), of almost equal sizes: none is left with a single sample."""
    return [
        (epoch, index)
        for epoch in range(epochs)
        for index in permutation(size, seed, Purpose.ORDER, epoch).tensor_split(
            -(-size // batch_size)
        )
    ]
