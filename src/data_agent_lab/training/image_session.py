"""A run on images in memory: model, optimizer, selector and counters, and their state on disk."""

from __future__ import annotations

import math
import zlib
from dataclasses import asdict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import TensorDataset

from data_agent import BatchSelector, make_selector, selection_loader
from data_agent.errors import CheckpointError
from data_agent.methods import method_class
from data_agent.runtime import distributed
from data_agent_lab.data.image_data import ImageData, corrupt_labels
from data_agent_lab.progress import Progress, silent
from data_agent_lab.recipes import ImageRecipe, RunConfig
from data_agent_lab.runs.folder import RunFolder
from data_agent_lab.training.batches import Batches
from data_agent_lab.training.devices import autocast_at
from data_agent_lab.training.engine import Position, warm_up
from data_agent_lab.training.ledger import Ledger
from data_agent_lab.training.models import Network, build_model
from data_agent_lab.training.optimisation import make_optimizer
from data_agent_lab.training.plan import plan_run
from data_agent_lab.training.ranks import (
    batch_of_rank,
    seed_rank,
    share_model,
)

_SCORES = "scores.safetensors"  # in a run's folder


class ImageSession:
    """All that a run on images works with, at its beginning until `resume` is called.

    Building one seeds torch's global generator. On several ranks it is a collective call, and the
    recipe's batch is the one of all ranks together.

    Args:
        config: the run.
        data: the data of its recipe, without label noise, which is added here.
        folder: of the run; checkpoints and scores that its method must be given are kept there.
        device: where it computes.
        progress: told about every batch, and about the making of scores.

    Attributes:
        labels: int64 `[N]` on the CPU, with noise.
        batches: makes the images.
        model: the model.
        forward: what is called to train it: the model, or around it what averages over ranks.
        optimizer: its optimizer.
        scaler: keeps fp16 gradients in range; does nothing at other precisions.
        selector: chooses the samples.
        loader: delivers `(labels, index)` of them; images are made from the index.
        position: how far the run is.
        ledger: what it has cost.

    Raises:
        InputError: the method needs what cannot be made here, or ranks cannot share the run.
    """

    def __init__(
        self,
        config: RunConfig[ImageRecipe],
        data: ImageData,
        folder: RunFolder,
        *,
        device: torch.device,
        progress: Progress = silent,
    ) -> None:
        recipe, seed = config.recipe, config.seed
        batch_size = batch_of_rank(recipe.batch_size)
        self.recipe, self.data, self.device, self.progress = recipe, data, device, progress
        self._folder = folder
        self.labels = corrupt_labels(
            data.train_labels, recipe.label_noise, num_classes=data.num_classes, seed=seed
        )
        images = zlib.crc32(data.train_images.numpy().data)
        self._checksum = zlib.crc32(self.labels.numpy().data, images)  # tells data from others
        self.position, self.ledger = Position(), Ledger(device)
        self.batches = Batches(data, recipe, seed=seed, device=device)
        torch.manual_seed(seed)
        self.model = self._make_model()
        warm_up(self.model, device, self._first_loss)
        seed_rank(seed)
        plan = plan_run(config, num_samples=len(self.labels), world=distributed.world_size())
        options = self._prepare(config) if method_class(plan.selector).required else {}
        self.selector = make_selector(
            plan.selector,
            num_samples=len(self.labels),
            epochs=plan.epochs,
            keep_ratio=plan.keep_ratio,
            seed=seed,
            **options,
        )
        self.selector.watch(self.model.head)
        self.forward = share_model(self.model)
        if isinstance(self.selector, BatchSelector):  # a pool, which leaves it a batch
            batch_size = round(batch_size / self.selector.keep_ratio)
        self.loader = selection_loader(
            TensorDataset(self.labels), self.selector, batch_size=batch_size
        )
        self.optimizer = make_optimizer(self.model, recipe)
        self.scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "fp16")
        self._max_steps = plan.max_steps
        self.position.num_steps = self.count_steps()

    @property
    def is_floating(self) -> bool:
        """Whether the size of an epoch, and so the number of steps, is known only as it begins."""
        return self.selector.schedule.kind == "floating"

    def batches_left(self) -> int:
        """Batches of the epoch from where the loop last stopped; none of one that is over."""
        selector, epoch = self.selector, self.position.epoch
        schedule, done = selector.schedule, selector.position(epoch)
        if selector.epoch not in (None, epoch):
            return 0
        left = schedule.loadable(len(selector.select(epoch)) - done)
        assert schedule.batch_size is not None
        return math.ceil(left / (schedule.batch_size * schedule.world))

    def count_steps(self) -> int:
        """Optimizer steps of the whole run: those done, and those left on as many ranks as now.

        With a floating schedule at most so many.
        """
        position, schedule = self.position, self.selector.schedule
        left = [schedule.steps(epoch) for epoch in range(position.epoch, schedule.epochs)]
        if position.batch > 0:
            left[0] = self.batches_left()
        steps = position.step + sum(math.ceil(n / self.recipe.accumulation) for n in left)
        return steps if self._max_steps is None else min(steps, self._max_steps)

    def autocast(self) -> torch.autocast:
        """The context of forward passes at the recipe's precision."""
        return autocast_at(self.recipe.precision, self.device)

    def _make_model(self) -> Network:
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

    def _first_loss(self) -> Tensor:
        index = torch.arange(min(self.recipe.batch_size, len(self.labels)))
        with self.autocast():
            logits = self.model(self.batches.training(index, epoch=0))
            return F.cross_entropy(logits, self.labels[index].to(self.device))

    def _prepare(self, config: RunConfig[ImageRecipe]) -> dict[str, Any]:
        """What the method must be given besides the budget, made once in a run and counted."""
        # Importing these loads clustering and nearest neighbours, which few methods need.
        from data_agent_lab.training.proxy import Proxy
        from data_agent_lab.training.scoring import prepare_once

        proxy = Proxy(
            recipe=self.recipe,
            keep_ratio=config.keep_ratio,
            seed=config.seed,
            device=self.device,
            labels=self.labels,
            images=self.batches,
            plain=self.batches.without_augmentation(),
            make_model=self._make_model,
            autocast=self.autocast,
            progress=self.progress,
        )
        made = prepare_once(self._folder.path / _SCORES, config.method, proxy)
        if distributed.rank() == 0:  # every rank made the same
            self.ledger.num_forward += made.num_forward
            self.ledger.num_backward += made.num_backward
        self.ledger.preparation_seconds = made.seconds
        self.ledger.training.seconds += made.seconds
        self.ledger.training.cpu_seconds += made.cpu_seconds
        return {name: distributed.from_first(value) for name, value in made.options.items()}

    def save(self) -> None:
        """Write a checkpoint, between optimizer steps; a collective call."""
        state = self.state()
        if distributed.rank() == 0:
            self._folder.save_checkpoint(state)

    def state(self) -> dict[str, Any]:
        """All that the rest of the run depends on, and what it has cost; a collective call.

        Valid between optimizer steps: gradients are not part of it. Rank 0 holds the state of all.
        """
        on_cuda = self.device.type == "cuda"
        return {
            "data_checksum": self._checksum,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "selector": self.selector.state_dict(),
            "position": asdict(self.position),
            "ledger": self.ledger.state(),
            "cpu_rng": _of_all(torch.get_rng_state()),
            "cuda_rng": _of_all(torch.cuda.get_rng_state(self.device)) if on_cuda else None,
        }

    def resume(self) -> tuple[int, float]:
        """Continue where `state` was saved, on as many ranks or on another number; see `Engine`.

        Raises:
            CheckpointError: it is damaged, or of other data or of an older version.
        """
        state = self._folder.load_checkpoint()
        if state is not None:
            self._load_state(state)
        return self.position.step, self.position.epoch

    def _load_state(self, state: dict[str, Any]) -> None:
        if "ledger" not in state:
            raise CheckpointError(
                "the checkpoint was written by an older version. Go on with that version, or start "
                "over in another --output."
            )
        if state["data_checksum"] != self._checksum:
            raise CheckpointError(
                "the data have changed since the checkpoint was written: images or labels differ. "
                "Restore the data, or start over in another --output."
            )
        self.selector.load_state_dict(state["selector"])
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.ledger.load_state(state["ledger"])
        self.position = Position(**state["position"])
        if not self.is_floating:  # other ranks may leave out another rest
            self.position.num_steps = self.count_steps()
        self._load_random_state(state)

    def _load_random_state(self, state: dict[str, Any]) -> None:
        """Each rank's generators go on; ranks that were not there begin with seeds of their own."""
        number, (host, device) = distributed.rank(), (state["cpu_rng"], state["cuda_rng"])
        if number >= len(host):
            seed_rank(self.selector.seed, self.position.step)
            return
        torch.set_rng_state(host[number].clone())  # torch crashes on a view of another start
        if self.device.type == "cuda" and device is not None:
            torch.cuda.set_rng_state(device[number].clone(), self.device)


def _of_all(tensor: Tensor) -> Tensor:
    """One row a rank: `[ranks, ...]`; a collective call."""
    return distributed.gather_rows(tensor.unsqueeze(0))[0]
