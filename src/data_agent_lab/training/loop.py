"""The loop that methods are compared in where samples lie in memory, and its state."""

from __future__ import annotations

import math
import zlib
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from data_agent import BatchSelector, Feedback, make_selector, selection_loader
from data_agent.baselines.refreshed import Refreshed
from data_agent.errors import CheckpointError
from data_agent.runtime import distributed
from data_agent_lab.training.engine import Engine, Hook, Position, leaving_no_trace
from data_agent_lab.training.ledger import Stopwatch
from data_agent_lab.training.optimisation import learning_rate, make_optimizer, take_step
from data_agent_lab.training.plan import plan_run
from data_agent_lab.training.ranks import batch_of_rank, seed_rank, share_buffers, share_model

_PARTS = ("selector", "model", "optimizer", "scaler")  # of a checkpoint
Inputs = Sequence[Tensor]
"""What is made of the samples of a batch, a row of each tensor for each of them."""


class Shown(NamedTuple):
    """What a batch shows in a forward pass.

    Args:
        losses: `[B]`, with a graph where gradients are enabled.
        signals: what else a selector may learn from, by the names of `Feedback`.
    """

    losses: Tensor
    signals: Mapping[str, Any]


class LoopEngine(Engine):
    """Trains in a loop of our own, on samples in memory, of which batches are made by index.

    A kind of task says what its data are and how they go through the model: the abstract methods.

    Attributes:
        loader: delivers `(position, index)`, both int64 `[B]` and equal.
    """

    eval_batch: ClassVar[int] = 512
    saves_every_epoch: ClassVar[bool] = True

    @abstractmethod
    def take_data(self) -> int:
        """Make of the data what the run trains on; returns a checksum that tells them from others.

        Afterwards `data.num_train` is the number of training samples.
        """

    @abstractmethod
    def make_model(self) -> nn.Module:
        """The recipe's model, freshly drawn from torch's global generator."""

    @abstractmethod
    def options(self, selector: str) -> dict[str, Any]:
        """What the selector of that name is made with besides the budget, once the model is."""

    @abstractmethod
    def inputs(self, index: Tensor, *, epoch: int) -> Inputs:
        """What is made of training samples in an epoch; `index` is int64 `[B]` on the CPU."""

    @abstractmethod
    def show(self, model: nn.Module, inputs: Inputs) -> Shown:
        """A forward pass to train with; what the selector watches need not be among its signals."""

    def show_pool(self, inputs: Inputs) -> Shown:
        """A forward pass to choose by, without a graph; with all signals."""
        return self.show(self.model, inputs)

    def goodness(self, index: Tensor) -> Tensor:
        """How good the model is on training samples as they are, float32 `[B]` in [0, 1].

        For methods that ask for it, which fit no task that does not define it.
        """
        raise NotImplementedError

    def build(self) -> None:
        """Make the model and what trains it; what its method needs is kept in the folder."""
        recipe, seed = self.recipe, self.config.seed
        batch_size = batch_of_rank(recipe.batch_size)
        self._checksum = self.take_data()
        size = self.data.num_train
        torch.manual_seed(seed)
        self.model = self.make_model()
        self.warm_up(self._first_loss)
        seed_rank(seed)
        plan = plan_run(self.config, num_samples=size, world=distributed.world_size())
        self.selector = make_selector(
            plan.selector,
            num_samples=size,
            epochs=plan.epochs,
            keep_ratio=plan.keep_ratio,
            seed=seed,
            **self.options(plan.selector),
        )
        self._shared = share_model(self.model)
        if isinstance(self.selector, BatchSelector):  # a pool, which leaves it a batch
            batch_size = round(batch_size / self.selector.keep_ratio)
        positions = TensorDataset(torch.arange(size))
        self.loader = selection_loader(positions, self.selector, batch_size=batch_size)
        self.optimizer = make_optimizer(self.model, recipe)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=recipe.precision == "fp16")
        self._max_steps = plan.max_steps
        self.position.num_steps = self._count_steps()

    def _first_loss(self) -> Tensor:
        index = torch.arange(min(self.recipe.batch_size, self.data.num_train))
        with self.autocast():
            return self.show(self.model, self.inputs(index, epoch=0)).losses.mean()

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
        if isinstance(self.selector, Refreshed) and self.selector.is_due(position.epoch):
            self._refresh(self.selector)
        return hook(position.epoch - 1)

    def _refresh(self, selector: Refreshed) -> None:
        """Tell a method how good the model is on every training sample, which costs a look each."""
        stopwatch = Stopwatch(self.device)
        stopwatch.start()
        share_buffers(self.model)
        index = torch.arange(self.data.num_train)
        index = index.tensor_split(distributed.world_size())[distributed.rank()]
        with self.evaluating():
            parts = [self.goodness(batch) for batch in index.split(self.eval_batch)]
        (values,) = distributed.gather_rows(torch.cat(parts).cpu())
        selector.refresh(values)
        stopwatch.stop()
        self.ledger.count(len(index), is_backward=False)
        self.ledger.preparation_seconds += stopwatch.seconds

    def train_epoch(self, epoch: int, hook: Hook) -> bool:
        """Train to the end of the epoch that has begun, or of the run; False if stopped before.

        The hook is asked where a checkpoint may be written: none holds the gradients of half an
        accumulation group.
        """
        position, accumulation = self.position, self.recipe.accumulation
        num_batches = position.batch + self._batches_left()
        self.model.train()
        for index in self._deliver():
            group_start = position.batch - position.batch % accumulation
            group_size = min(accumulation, num_batches - group_start)
            with distributed.together("a step"), distributed.explained():
                is_last = position.batch + 1 == num_batches
                self._backward(index, group_size=group_size, is_last=is_last)
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

    def _deliver(self) -> Iterator[Tensor]:
        """The rest of the running epoch's batches, int64 `[B]` each."""
        before = torch.get_rng_state()
        iterator = iter(self.loader)  # draws a seed for its workers from torch's global generator
        if self.position.batch > 0:  # a continued epoch has drawn it before
            torch.set_rng_state(before)
        return (index for _, index in iterator)

    def _backward(self, index: Tensor, *, group_size: int, is_last: bool) -> None:
        inputs = self.inputs(index, epoch=self.position.epoch)
        world, is_full = distributed.world_size(), not is_last
        if isinstance(self.selector, BatchSelector):
            inputs, index = self.best_of_pool(self.selector, inputs, index)
            is_full = False  # a rank's share of a pool may be one sample more or less
        with self.autocast():
            shown = self.show(self._shared, inputs)
        loss = self.selector.learn(shown.losses, index, **shown.signals)
        num_all = len(index) * world if is_full else distributed.total(len(index))
        # Gradients are averaged over ranks: in proportion to its samples each rank's mean counts.
        share = len(index) / num_all
        self.scaler.scale(loss * (share * world) / group_size).backward()
        self.ledger.loss_sum.add_(loss.detach() * share)
        self.ledger.num_losses += 1
        self.ledger.count(len(index))

    def best_of_pool(
        self, selector: BatchSelector, inputs: Inputs, index: Tensor
    ) -> tuple[Inputs, Tensor]:
        """Of a pool that the loader delivered, the batch to train on; costs a forward pass.

        The pass runs in training mode, as in the training step, so that losses are those that
        training would see; batch statistics and random generators (dropout) are left as they were.
        """
        with torch.no_grad(), leaving_no_trace(self.model, self.device), self.autocast():
            shown = self.show_pool(inputs)
        keep = selector.select_batch(Feedback(index, shown.losses, **shown.signals))
        self.ledger.count(len(index), is_backward=False)
        return [_rows(part, keep) for part in inputs], index[keep.cpu()]

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
                "the data have changed since the checkpoint was written. "
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


def checksum(*parts: Tensor) -> int:
    """Tells tensors on the CPU from others."""
    total = 0
    for part in parts:
        total = zlib.crc32(part.contiguous().numpy().data, total)
    return total


def _rows(part: Tensor, keep: Tensor) -> Tensor:
    """Some rows, images in the layout convolutions are fast in."""
    rows = part[keep]
    return rows.contiguous(memory_format=torch.channels_last) if rows.ndim == 4 else rows


def _of_all(tensor: Tensor) -> Tensor:
    """One row a rank: `[ranks, ...]`; a collective call."""
    return distributed.gather_rows(tensor.unsqueeze(0))[0]
