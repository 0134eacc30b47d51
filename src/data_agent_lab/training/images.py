"""The engine of image tasks: the training loop that all methods are compared in, and evaluation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from data_agent import BatchSelector, Feedback
from data_agent.runtime import distributed
from data_agent_lab.training.engine import Hooks, is_complete, leaving_no_trace
from data_agent_lab.training.image_session import ImageSession
from data_agent_lab.training.optimisation import learning_rate, rate_at
from data_agent_lab.training.ranks import added_up, own_part, share_buffers


class ImageEngine(ImageSession):
    """Trains an image model in a loop of our own; see `Engine`."""

    eval_batch: ClassVar[int] = 512
    saves_every_epoch: ClassVar[bool] = True
    metric = "accuracy"

    def train(self, hooks: Hooks) -> None:
        """Train until the run is complete, or a hook says to stop."""
        position = self.position
        if position.batch > 0 and self.batches_left() == 0:
            self._end_epoch(hooks)  # its rest is too small for as many ranks as there are now
        if is_complete(self):
            return  # only its result is missing
        self.ledger.training.start()  # what the selector does between epochs is part of training
        for epoch in self.selector.epochs():
            is_over = self.train_epoch(epoch, hooks)
            if not is_over or self._end_epoch(hooks) or is_complete(self):
                break
        self.ledger.training.stop()

    def _end_epoch(self, hooks: Hooks) -> bool:
        position = self.position
        position.epoch, position.batch = position.epoch + 1, 0
        return hooks.after_epoch(position.epoch - 1)

    def train_epoch(self, epoch: int, hooks: Hooks) -> bool:
        """Train to the epoch's or the run's end; False if stopped before.

        Args:
            epoch: the one that has begun.
            hooks: asked where a checkpoint may be written: none holds the gradients of half an
                accumulation group.
        """
        position, accumulation = self.position, self.recipe.accumulation
        num_batches = position.batch + self.batches_left()
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
            self._step(self._rate(epoch, num_batches))
            if position.step == position.num_steps:
                return True
            if position.batch < num_batches and hooks.after_step():
                return False
        return True

    def _deliver(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The rest of the running epoch's batches: labels int64 `[B]`, index int64 `[B]`.

        A loader's iterator draws a seed for its workers from torch's global generator. An epoch
        that is continued has drawn it before, so the generator is put back.
        """
        generator_state = torch.get_rng_state()
        iterator = iter(self.loader)
        if self.position.batch > 0:
            torch.set_rng_state(generator_state)
        return iterator

    def _backward(self, labels: Tensor, index: Tensor, *, group_size: int, is_last: bool) -> None:
        images = self.batches.training(index, epoch=self.position.epoch)
        labels = labels.to(self.device)
        world, is_full = distributed.world_size(), not is_last
        if isinstance(self.selector, BatchSelector):
            images, labels, index = self.best_of_pool(self.selector, images, labels, index)
            is_full = False  # a rank's share of a pool may be one sample more or less
        with self.autocast():
            losses = self._losses(self.forward(images), labels)
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
        """Training losses `[B]` of logits `[B, C]`."""
        smoothing = self.recipe.label_smoothing
        return F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)

    def _rate(self, epoch: int, num_batches: int) -> float:
        """The learning rate of the next step: by steps, or by epochs where steps are not known."""
        recipe, position = self.recipe, self.position
        peak, schedule = recipe.learning_rate, recipe.schedule
        if not self.is_floating:
            return learning_rate(
                position.step, num_steps=position.num_steps, peak=peak, schedule=schedule
            )
        done, size = (math.ceil(n / recipe.accumulation) for n in (position.batch, num_batches))
        time = (epoch + (done - 0.5) / size) / self.selector.schedule.epochs
        return rate_at(time, peak=peak, schedule=schedule)

    def _step(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        self.position.step += 1
        self.position.learning_rate = rate

    @torch.no_grad()
    def evaluate(self, limit: int | None = None) -> dict[str, float]:
        """Loss and accuracy in percent; a collective call, ranks share the samples."""
        share_buffers(self.model)
        count = min(limit or self.data.num_eval, self.data.num_eval)
        num_correct, loss_sum = 0, 0.0
        self.model.eval()
        for batch in torch.arange(count).split(self.eval_batch):
            index = own_part(batch)
            labels = self.data.eval_labels[index].to(self.device)
            with self.autocast():
                logits = self.model(self.batches.evaluation(index)).float()
            num_correct += int((logits.argmax(1) == labels).sum())
            loss_sum += float(F.cross_entropy(logits, labels, reduction="sum"))
        self.model.train()
        num_correct, loss_sum = added_up(num_correct, loss_sum)
        return {"loss": loss_sum / count, "accuracy": 100 * num_correct / count}

    def facts(self, last: Mapping[str, Any]) -> dict[str, Any]:
        """What the result says about data and metrics; see `Engine`."""
        del last
        data = self.data
        return {
            "unit": "%",
            "direction": "higher",
            "evaluation": data.evaluation,
            "num_train_samples": data.num_train,
            "num_eval_samples": data.num_eval,
            "num_classes": data.num_classes,
            "num_noisy_labels": data.num_noisy(self.labels),
        }

    def finish(self) -> None:
        """Nothing is left to do: the last checkpoint holds the trained model."""
