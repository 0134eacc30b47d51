"""The engine of image tasks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_agent.methods import method_class
from data_agent.runtime import distributed
from data_agent_lab.data.image_data import labels_of_run, trusted_of
from data_agent_lab.runs.samples import kept_rows
from data_agent_lab.training.batches import Batches
from data_agent_lab.training.engine import measure
from data_agent_lab.training.loop import Inputs, LoopEngine, Shown, checksum
from data_agent_lab.training.models import Network, build_model
from data_agent_lab.training.ranks import share_buffers

_SCORES = "scores.safetensors"  # in a run's folder


class ImageEngine(LoopEngine):
    """Trains an image model; see `Engine`.

    Attributes:
        labels: int64 `[N]` on the CPU, with noise.
        batches: makes the images.
    """

    model: Network
    labels: Tensor
    true_labels: Tensor

    def build(self) -> None:
        """As every loop; the selector watches the model's head."""
        super().build()
        self.selector.watch(self.model.head)

    def take_data(self) -> int:
        """Make some labels wrong, leave out what is not kept."""
        data, recipe, seed = self.data, self.recipe, self.config.seed
        self.labels = labels_of_run(data, recipe, seed=seed)
        if recipe.keep_index is not None:  # behind the noise: the same labels are wrong as before
            path, size = Path(recipe.keep_index), data.num_train
            rows = torch.from_numpy(kept_rows(path, size, data.num_trusted))
            self.data = data = data.at(rows)
            self.labels = self.labels[rows]
        self.true_labels = data.true_labels
        self._trusted = trusted_of(data, recipe)
        self.batches = Batches(data, recipe, seed=seed, device=self.device)
        return checksum(data.train_images, self.labels)

    def make_model(self) -> Network:
        """The recipe's model, freshly drawn from torch's global generator."""
        model = build_model(
            self.recipe.model,
            in_channels=self.data.train_images.shape[1],
            num_classes=self.data.num_classes,
            image_size=self.recipe.image_size,
            width=self.recipe.width,
        ).to(self.device)
        # The layout convolutions are fast in; torch's type stubs leave this overload out.
        return model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def options(self, selector: str) -> dict[str, Any]:
        """The trusted samples, and what the method must be given."""
        trusted = {} if self._trusted is None else {"trusted": self._trusted}
        return {**trusted, **(self._prepare() if method_class(selector).required else {})}

    def _prepare(self) -> dict[str, Any]:
        """What the method must be given besides the budget, made once in a run and counted."""
        # Importing this loads clustering and nearest neighbours, which few methods need.
        from data_agent_lab.training.scoring import Proxy, prepare_once

        path = self.folder.path / _SCORES
        made = prepare_once(path, self.config.method, Proxy(self))
        ledger = self.ledger
        if distributed.rank() == 0:  # every rank made the same
            ledger.num_forward += made.num_forward
            ledger.num_backward += made.num_backward
        ledger.preparation_seconds = made.seconds
        ledger.training.seconds += made.seconds
        ledger.training.cpu_seconds += made.cpu_seconds
        return {name: distributed.from_first(value) for name, value in made.options.items()}

    def inputs(self, index: Tensor, *, epoch: int) -> Inputs:
        """Images, and labels as they are trained on."""
        images = self.batches.training(index, epoch=epoch)
        return images, self.labels[index].to(self.device)

    def show(self, model: nn.Module, inputs: Inputs) -> Shown:
        """Losses and labels; features and logits are watched."""
        images, labels = inputs
        return Shown(self._losses(model(images), labels), {"labels": labels})

    def show_pool(self, inputs: Inputs) -> Shown:
        """Losses, labels, features and logits."""
        images, labels = inputs
        features = self.model.body(images)
        logits = self.model.head(features)
        signals = {"logits": logits, "features": features, "labels": labels}
        return Shown(self._losses(logits, labels), signals)

    def _losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        smoothing = self.recipe.label_smoothing
        return F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)

    def evaluate(self, limit: int | None = None) -> dict[str, Any]:
        """Loss and accuracy; ranks share the samples."""
        share_buffers(self.model)
        predictions = self._predictions(limit or self.data.num_eval)
        return measure(self.model, predictions, num_classes=self.data.num_classes)

    def _predictions(self, limit: int) -> Iterator[tuple[Tensor, Tensor]]:
        rank, world = distributed.rank(), distributed.world_size()
        for batch in torch.arange(min(limit, self.data.num_eval)).split(self.eval_batch):
            index = batch.tensor_split(world)[rank]  # as even as possible; it may be empty
            with self.autocast():
                logits = self.model(self.batches.evaluation(index)).float()
            yield logits, self.data.eval_labels[index].to(self.device)

    def facts(self, last: Mapping[str, Any]) -> dict[str, Any]:
        """What the result says about images."""
        del last
        data, trusted = self.data, self.selector.trusted
        return {
            "evaluation": data.evaluation,
            "num_noisy_labels": data.num_noisy(self.labels),
            "num_trusted_rows": 0 if trusted is None else int(trusted.sum()),
        }
