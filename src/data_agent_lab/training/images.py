"""The engine of image tasks: the training loop that all methods are compared in, and its state."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import TensorDataset

from data_agent import BatchSelector, Feedback, make_selector, selection_loader
from data_agent.errors import CheckpointError
from data_agent.methods import method_class
from data_agent.runtime import distributed
from data_agent_lab.data.image_data import corrupt_labels, trusted_of
from data_agent_lab.runs.samples import read_index
from data_agent_lab.training.batches import Batches
from data_agent_lab.training.engine import Engine, Hook, Position, leaving_no_trace, measure
from data_agent_lab.training.models import Network, build_model
from data_agent_lab.training.optimisation import learning_rate, make_optimizer, take_step
from data_agent_lab.training.plan import plan_run
from data_agent_lab.training.ranks import (
    batch_of_rank,
    seed_rank,
    share_buffers,
    share_model,
)

_SCORES = "scores.safetensors"  # in a run's folder
_PARTS = ("selector", "model", "optimizer", "scaler")  # of a checkpoint


class ImageEngine(Engine):
    """Trains an image model in a loop of our own, on images in memory; see `Engine`.

    Attributes:
        labels: int64 `[N]` on the CPU, with noise.
        batches: makes the images.
        loader: delivers `(labels, index)`; images are made from the index.
    """

    eval_batch: ClassVar[int] = 512
    saves_every_epoch: ClassVar[bool] = True
    model: Network
    labels: Tensor
    true_labels: Tensor

    def build(self) -> None:
        """Make the model and what trains it; what its method needs is kept in the folder."""
        data, recipe, seed = self.data, self.recipe, self.config.seed
        batch_size = batch_of_rank(recipe.batch_size)
        self.labels = corrupt_labels(
            data.train_labels, recipe.label_noise, num_classes=data.num_classes, seed=seed
        )
        if recipe.keep_index is not None:  # behind the noise: the same labels are wrong as before
            rows = torch.from_numpy(read_index(Path(recipe.keep_index), data.num_train))
            self.data = data = data.at(rows)
            self.labels = self.labels[rows]
        self.true_labels = data.true_labels
        options: dict[str, Any] = {}
        if (rows := trusted_of(data, recipe)) is not None:
            options["trusted"] = rows
            self.labels[rows] = self.true_labels[rows]
        images = zlib.crc32(data.train_images.numpy().data)
        self._checksum = zlib.crc32(self.labels.numpy().data, images)  # tells data from others
        self.batches = Batches(data, recipe, seed=seed, device=self.device)
        torch.manual_seed(seed)
        self.model = self.make_model()
        self.warm_up(self._first_loss)
        seed_rank(seed)
        plan = plan_run(self.config, num_samples=len(self.labels), world=distributed.world_size())
        self.selector = make_selector(
            plan.selector,
            num_samples=len(self.labels),
            epochs=plan.epochs,
            keep_ratio=plan.keep_ratio,
            seed=seed,
            **options,
            **(self._prepare() if method_class(plan.selector).required else {}),
        )
        self.selector.watch(self.model.head)
        self._shared = share_model(self.model)
        if isinstance(self.selector, BatchSelector):  # a pool, which leaves it a batch
            batch_size = round(batch_size / self.selector.keep_ratio)
        self.loader = selection_loader(
            TensorDataset(self.labels), self.selector, batch_size=batch_size
        )
        self.optimizer = make_optimizer(self.model, recipe)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=recipe.precision == "fp16")
        self._max_steps = plan.max_steps
        self.position.num_steps = self._count_steps()

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

    def _first_loss(self) -> Tensor:
        index = torch.arange(min(self.recipe.batch_size, len(self.labels)))
        with self.autocast():
            logits = self.model(self.batches.training(index, epoch=0))
            return F.cross_entropy(logits, self.labels[index].to(self.device))

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

    # How much there is to do.

    @property
    def _is_floating(self) -> bool:
        """Whether the number of steps in an epoch is known only as it begins."""
        return self.selector.schedule.kind == "floating"

    def _batches_left(self) -> int:
        """Batches of the epoch from where the loop last stopped; none of one that is over."""
        selector, epoch = self.selector, self.position.epoch
        schedule, done = selector.schedule, selector.position(epoch)
        if selector.epoch not in (None, epoch):
            return 0
        left = schedule.loadable(len(selector.select(epoch)) - done)
        assert schedule.batch_size is not None
        return math.ceil(left / (schedule.batch_size * schedule.world))

    def _count_steps(self) -> int:
        """Optimizer steps of the whole run: those done, and those left on as many ranks as now.

        With a floating schedule at most so many.
        """
        position, schedule = self.position, self.selector.schedule
        left = [schedule.steps(epoch) for epoch in range(position.epoch, schedule.epochs)]
        if position.batch > 0:
            left[0] = self._batches_left()
        steps = position.step + sum(math.ceil(n / self.recipe.accumulation) for n in left)
        return steps if self._max_steps is None else min(steps, self._max_steps)

    # Training.

    def train(self, hook: Hook) -> None:
        """Train until the run is complete, or the hook says to stop."""
        position = self.position
        if position.batch > 0 and self._batches_left() == 0:
            self._end_epoch(hook)  # its rest is too small for as many ranks as there are now
        if self.is_complete:
            return  # only its result is missing
        self.ledger.training.start()  # what the selector does between epochs is part of training
        for epoch in self.selector.epochs():
            is_over = self.train_epoch(epoch, hook)
            if not is_over or self._end_epoch(hook) or self.is_complete:
                break
        self.ledger.training.stop()

    def _end_epoch(self, hook: Hook) -> bool:
        position = self.position
        position.epoch, position.batch = position.epoch + 1, 0
        return hook(position.epoch - 1)

    def train_epoch(self, epoch: int, hook: Hook) -> bool:
        """Train to the end of the epoch that has begun, or of the run; False if stopped before.

        The hook is asked where a checkpoint may be written: none holds the gradients of half an
        accumulation group.
        """
        position, accumulation = self.position, self.recipe.accumulation
        num_batches = position.batch + self._batches_left()
        self.model.train()
        for labels, index in self._deliver():
            group_start = position.batch - position.batch % accumulation
            group_size = min(accumulation, num_batches - group_start)
            with distributed.together("a step"), distributed.explained():
                is_last = position.batch + 1 == num_batches
                self._backward(labels, index, group_size=group_size, is_last=is_last)
            position.batch += 1
            self.progress(f"epoch {epoch + 1}", position.step, position.num_steps)
            if position.batch - group_start < group_size:
                continue
            self._step(epoch, num_batches)
            if position.step == position.num_steps:
                return True
            if position.batch < num_batches and hook(None):
                return False
        return True

    def _deliver(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The rest of the running epoch's batches: labels int64 `[B]`, index int64 `[B]`."""
        before = torch.get_rng_state()
        iterator = iter(self.loader)  # draws a seed for its workers from torch's global generator
        if self.position.batch > 0:  # a continued epoch has drawn it before
            torch.set_rng_state(before)
        return iterator

    def _backward(self, labels: Tensor, index: Tensor, *, group_size: int, is_last: bool) -> None:
        images = self.batches.training(index, epoch=self.position.epoch)
        labels = labels.to(self.device)
        world, is_full = distributed.world_size(), not is_last
        if isinstance(self.selector, BatchSelector):
            images, labels, index = self.best_of_pool(self.selector, images, labels, index)
            is_full = False  # a rank's share of a pool may be one sample more or less
        with self.autocast():
            losses = self._losses(self._shared(images), labels)
        loss = self.selector.learn(losses, index, labels=labels)
        num_all = len(index) * world if is_full else distributed.total(len(index))
        # Gradients are averaged over ranks: in proportion to its samples each rank's mean counts.
        share = len(index) / num_all
        self.scaler.scale(loss * (share * world) / group_size).backward()
        self.ledger.loss_sum.add_(loss.detach() * share)
        self.ledger.num_losses += 1
        self.ledger.count(len(index))

    def best_of_pool(
        self, selector: BatchSelector, images: Tensor, labels: Tensor, index: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of a pool that the loader delivered, the batch to train on; costs a forward pass.

        The pass runs in training mode, as in the training step, so that losses are those that
        training would see; batch statistics and random generators (dropout) are left as they were.
        """
        with torch.no_grad(), leaving_no_trace(self.model, self.device), self.autocast():
            features = self.model.body(images)
            logits = self.model.head(features)
            losses = self._losses(logits, labels)
        keep = selector.select_batch(Feedback(index, losses, logits, features, labels))
        self.ledger.count(len(index), is_backward=False)
        chosen = images[keep].contiguous(memory_format=torch.channels_last)
        return chosen, labels[keep], index[keep.cpu()]

    def _losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        smoothing = self.recipe.label_smoothing
        return F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)

    def _step(self, epoch: int, num_batches: int) -> None:
        """An optimizer step, whose rate goes by epochs where the number of steps is not known."""
        recipe, position = self.recipe, self.position
        time = (position.step + 0.5) / position.num_steps
        if self._is_floating:
            done, size = (math.ceil(n / recipe.accumulation) for n in (position.batch, num_batches))
            time = (epoch + (done - 0.5) / size) / self.selector.schedule.epochs
        rate = learning_rate(time, peak=recipe.learning_rate, schedule=recipe.schedule)
        take_step(self.optimizer, self.scaler, rate)
        position.step, position.learning_rate = position.step + 1, rate

    # What it has come to.

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

    def finish(self) -> None:
        """Nothing is left to do: the last checkpoint holds the trained model."""

    # Its state on disk.

    def save(self) -> None:
        """Write a checkpoint, between optimizer steps: gradients are not part of it."""
        state: dict[str, Any] = {name: getattr(self, name).state_dict() for name in _PARTS}
        state |= {
            "data_checksum": self._checksum,
            "position": asdict(self.position),
            "ledger": self.ledger.state(),
            "cpu_rng": _of_all(torch.get_rng_state()),
            "cuda_rng": None,
        }
        if self.device.type == "cuda":
            state["cuda_rng"] = _of_all(torch.cuda.get_rng_state(self.device))
        if distributed.rank() == 0:  # which holds the state of all
            self.folder.save_checkpoint(state)

    def resume(self) -> tuple[int, float]:
        """Continue where `save` was called, on as many ranks or on another number."""
        state = self.folder.load_checkpoint()
        if state is not None:
            self._load(state)
        return self.position.step, self.position.epoch

    def _load(self, state: dict[str, Any]) -> None:
        if state["data_checksum"] != self._checksum:
            raise CheckpointError(
                "the data have changed since the checkpoint was written: images or labels differ. "
                "Restore the data, or start over in another --output."
            )
        for name in _PARTS:
            getattr(self, name).load_state_dict(state[name])
        self.ledger.load_state(state["ledger"])
        self.position = Position(**state["position"])
        if not self._is_floating:  # other ranks may leave out another rest
            self.position.num_steps = self._count_steps()
        number, host, device = distributed.rank(), state["cpu_rng"], state["cuda_rng"]
        if number >= len(host):  # a rank that was not there begins with a seed of its own
            seed_rank(self.selector.seed, self.position.step)
            return
        torch.set_rng_state(host[number].clone())  # torch crashes on a view of another start
        if self.device.type == "cuda" and device is not None:
            torch.cuda.set_rng_state(device[number].clone(), self.device)


def _of_all(tensor: Tensor) -> Tensor:
    """One row a rank: `[ranks, ...]`; a collective call."""
    return distributed.gather_rows(tensor.unsqueeze(0))[0]
