"""A run in memory: model, optimizer, selector and counters, and their state on disk."""

from __future__ import annotations

import copy
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from data_agent import BatchSelector, Selector, make_selector, selection_loader
from data_agent.errors import InputError
from data_agent.methods import method_class
from data_agent.runtime import distributed
from data_agent.runtime.random import Purpose, derived_seed
from data_agent_lab.data.image_data import ImageData, corrupt_labels
from data_agent_lab.methods import Plan, plan_run
from data_agent_lab.progress import Progress, silent
from data_agent_lab.recipes import ImageRecipe, RunConfig
from data_agent_lab.training.batches import Batches
from data_agent_lab.training.devices import Stopwatch, autocast_at
from data_agent_lab.training.models import Network, build_model
from data_agent_lab.training.optimisation import make_optimizer
from data_agent_lab.training.ranks import Sharding, batch_of_rank, spread

if TYPE_CHECKING:
    from data_agent_lab.training.scoring import Preparation

_SCORES = "scores.safetensors"  # in a run's folder


@dataclass(slots=True)
class Position:
    """How far a run is, and what it has cost."""

    epoch: int = 0  # to do, or being done
    batch: int = 0  # batches done in this epoch
    step: int = 0  # optimizer steps done
    num_steps: int = 0  # of the whole run, see `count_steps`
    num_forward: int = 0  # samples that went through the model to train it
    num_backward: int = 0  # samples that went through its backward pass
    preparation_seconds: float = 0.0  # spent on what the method had to be given before training


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Session:
    """All that a run works with.

    Args:
        recipe: how it trains.
        device: where it computes.
        batches: makes the images.
        eval_labels: int64 `[M]` on the device.
        num_noisy_labels: training labels that are wrong.
        data_checksum: tells these data from others.
        model: the model.
        forward: what is called to train it: the model, or around it what averages over ranks.
        optimizer: its optimizer.
        scaler: keeps fp16 gradients in range; does nothing at other precisions.
        selector: chooses the samples.
        loader: delivers `(labels, index)` of them, the labels with noise; images are made from
            the index.
        max_steps: optimizer steps after which it ends; None means at its schedule's end.
        position: how far it is.
        loss_sum: float32 scalar on the device, over the batches of this epoch.
        stopwatch: time of training, without evaluation and checkpoints.
        eval_stopwatch: time of evaluation.
    """

    recipe: ImageRecipe
    device: torch.device
    batches: Batches
    eval_labels: Tensor
    num_noisy_labels: int
    data_checksum: int
    model: Network
    forward: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    selector: Selector
    loader: DataLoader[Any]
    max_steps: int | None
    position: Position
    loss_sum: Tensor
    stopwatch: Stopwatch
    eval_stopwatch: Stopwatch

    @property
    def is_floating(self) -> bool:
        """Whether the size of an epoch, and so the number of steps, is known only as it begins."""
        return self.selector.schedule.kind == "floating"

    @property
    def is_complete(self) -> bool:
        """Whether the last epoch is over, or the last step done."""
        position = self.position
        is_over = position.epoch == self.selector.schedule.epochs
        return is_over or position.step == position.num_steps

    @property
    def is_sharded(self) -> bool:
        """Whether each rank holds a part of the model only."""
        return distributed.world_size() > 1 and self.forward is self.model

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
        position, schedule, accumulation = (
            self.position,
            self.selector.schedule,
            self.recipe.accumulation,
        )
        first, steps = position.epoch, position.step
        if position.batch > 0:
            steps += math.ceil(self.batches_left() / accumulation)
            first += 1
        steps += sum(
            math.ceil(schedule.steps(epoch) / accumulation)
            for epoch in range(first, schedule.epochs)
        )
        return steps if self.max_steps is None else min(steps, self.max_steps)

    def autocast(self) -> torch.autocast:
        """The context of forward passes at the recipe's precision."""
        return _autocast(self.recipe, self.device)


def start_session(
    config: RunConfig[ImageRecipe],
    data: ImageData,
    folder: Path,
    *,
    device: torch.device,
    progress: Progress = silent,
    sharding: Sharding = "ddp",
) -> Session:
    """Build a run at its beginning; seeds torch's global generator.

    On several ranks a collective call; the recipe's batch is the one of all ranks together.

    Args:
        config: the run.
        data: the data of its recipe, without label noise, which is added here.
        folder: of the run; scores that its method must be given are kept there.
        device: where it computes.
        progress: told about the making of scores.
        sharding: how several ranks share the model, see `spread`.

    Raises:
        InputError: the method needs what nobody here can make, or ranks cannot share the run.
    """
    recipe, seed = config.recipe, config.seed
    batch_size = batch_of_rank(recipe.batch_size)
    labels = corrupt_labels(
        data.train_labels, recipe.label_noise, num_classes=data.num_classes, seed=seed
    )
    batches = Batches(data, recipe, seed=seed, device=device)
    torch.manual_seed(seed)
    model = _make_model(recipe, data, device)
    with _autocast(recipe, device):
        _warm_up(model, batches, labels[: recipe.batch_size])
    seed_rank(seed)  # so that dropout does not depend on the warm-up
    plan = _plan(config, num_samples=len(labels))
    stopwatch, position, options = Stopwatch(device), Position(), {}
    if method_class(plan.selector).required:
        preparation = _prepare(
            config, data, labels, batches, path=folder / _SCORES, progress=progress
        )
        options = {name: distributed.from_first(v) for name, v in preparation.options.items()}
        _put_on_bill(preparation, position, stopwatch)
    selector = make_selector(
        plan.selector,
        num_samples=len(labels),
        epochs=plan.epochs,
        keep_ratio=plan.keep_ratio,
        seed=seed,
        **options,
    )
    selector.watch(model.head)
    _check_sharding(recipe, selector, sharding)
    forward = spread(model, sharding)
    loader = selection_loader(
        TensorDataset(labels), selector, batch_size=_loader_batch(batch_size, selector)
    )
    session = Session(
        recipe=recipe,
        device=device,
        batches=batches,
        eval_labels=data.eval_labels.to(device),
        num_noisy_labels=data.num_noisy(labels),
        data_checksum=_checksum(data.train_images, labels),
        model=model,
        forward=forward,
        optimizer=make_optimizer(model, recipe),
        scaler=torch.amp.GradScaler(device.type, enabled=recipe.precision == "fp16"),
        selector=selector,
        loader=loader,
        max_steps=plan.max_steps,
        position=position,
        loss_sum=torch.zeros((), device=device),
        stopwatch=stopwatch,
        eval_stopwatch=Stopwatch(device),
    )
    position.num_steps = session.count_steps()
    return session


def _autocast(recipe: ImageRecipe, device: torch.device) -> torch.autocast:
    return autocast_at(recipe.precision, device)


def _make_model(recipe: ImageRecipe, data: ImageData, device: torch.device) -> Network:
    """The recipe's model, freshly drawn from torch's global generator."""
    model = build_model(
        recipe.model,
        in_channels=data.train_images.shape[1],
        num_classes=data.num_classes,
        image_size=recipe.image_size,
        width=recipe.width,
    ).to(device)
    # The layout convolutions are fast in; torch's type stubs leave this overload out.
    return model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def _plan(config: RunConfig[ImageRecipe], *, num_samples: int) -> Plan:
    recipe = config.recipe
    return plan_run(
        config.method,
        num_samples=num_samples,
        epochs=recipe.epochs,
        keep_ratio=config.keep_ratio,
        batch_size=recipe.batch_size,
        accumulation=recipe.accumulation,
        world=distributed.world_size(),
    )


def _prepare(
    config: RunConfig[ImageRecipe],
    data: ImageData,
    labels: Tensor,
    batches: Batches,
    *,
    path: Path,
    progress: Progress,
) -> Preparation:
    """What the method must be given besides the budget, made once in a run."""
    # Importing these loads clustering and nearest neighbours, which few methods need.
    from data_agent_lab.training.proxy import Proxy
    from data_agent_lab.training.scoring import prepare_once

    recipe, device = config.recipe, batches.device
    proxy = Proxy(
        recipe=recipe,
        keep_ratio=config.keep_ratio,
        seed=config.seed,
        device=device,
        labels=labels,
        images=batches,
        plain=batches.without_augmentation(),
        make_model=lambda: _make_model(recipe, data, device),
        autocast=lambda: _autocast(recipe, device),
        progress=progress,
    )
    return prepare_once(path, config.method, proxy)


def _put_on_bill(preparation: Preparation, position: Position, stopwatch: Stopwatch) -> None:
    """Making scores is part of the run's cost and of its time."""
    position.num_forward += preparation.num_forward
    position.num_backward += preparation.num_backward
    position.preparation_seconds = preparation.seconds
    stopwatch.seconds += preparation.seconds
    stopwatch.cpu_seconds += preparation.cpu_seconds


def seed_rank(seed: int, step: int = 0) -> None:
    """Seed torch's global generator, on each rank with another seed: dropout is drawn from it."""
    number = distributed.rank()
    torch.manual_seed(derived_seed(seed, Purpose.NETWORK, number, step) if number else seed)


def _check_sharding(recipe: ImageRecipe, selector: Selector, sharding: Sharding) -> None:
    if sharding == "ddp" or distributed.world_size() == 1:
        return
    if isinstance(selector, BatchSelector):
        raise InputError(
            f"{selector.name} looks at each pool through the model's body, which a sharded model "
            "does not hold. Use --sharding ddp."
        )
    if recipe.precision == "fp16":
        raise InputError(
            "--precision fp16 scales gradients by what one rank sees of them. Use --precision bf16 "
            "or --sharding ddp."
        )


def _loader_batch(batch_size: int, selector: Selector) -> int:
    """Samples that a loader delivers at once: of a batch selector, what leaves it a batch."""
    if isinstance(selector, BatchSelector):
        return round(batch_size / selector.keep_ratio)
    return batch_size


def _warm_up(model: Network, batches: Batches, labels: Tensor) -> None:
    """Train a copy on one batch, so that one-time costs fall on nobody's clock.

    Without it the first run of a comparison would pay for threads, kernels and allocations, and
    the others would look faster than they are.
    """
    twin = copy.deepcopy(model).train()
    images = batches.training(torch.arange(len(labels)), epoch=0)
    F.cross_entropy(twin(images), labels.to(images.device)).backward()


def _checksum(images: Tensor, labels: Tensor) -> int:
    return zlib.crc32(labels.numpy().data, zlib.crc32(images.numpy().data))
