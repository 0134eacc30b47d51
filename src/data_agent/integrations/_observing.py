"""What a Trainer does with each training batch: its own loss, observed sample by sample."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import Trainer
from transformers.loss.loss_utils import ForCausalLMLoss
from transformers.trainer_utils import unwrap_peft_model

from data_agent.errors import InputError, StateError
from data_agent.integrations._head import pool
from data_agent.integrations._in_batch import rows_of
from data_agent.integrations._refusals import check_rows
from data_agent.integrations._scale import LossScale, auxiliary_loss
from data_agent.loading.collating import INDEX_KEY
from data_agent.losses import SampleLosses, sample_losses
from data_agent.selecting.batch_selector import BatchSelector
from data_agent.selecting.feedback import Feedback
from data_agent.selecting.selector import Selector
from data_agent.selecting.taps import HeadTap

_Base = Trainer if TYPE_CHECKING else object


class ObservesBatches(_Base):
    """The part of `SelectiveTrainerMixin` that handles batches; its state is made there."""

    selector: Selector | None
    """The running or last run's selector; None before the first run begins."""

    _index: Tensor | None
    """The samples of the batch at hand, between `training_step` and `compute_loss`."""

    _is_in_step = False
    """Whether `training_step` runs: a call of `compute_loss` is then no evaluation."""

    _loss_scale: LossScale
    _tap: HeadTap | None

    # What a subclass may define.

    def compute_sample_losses(self, inputs: Mapping[str, Any], outputs: Any) -> SampleLosses:
        """Each sample's loss in the batch that the model has just seen.

        By default the terms of the model's own loss: cross entropy of classes or tokens (shifted
        for causal models), binary cross entropy, squared error; their mean is compared with the
        Trainer's loss, on the first batches until one of them can tell, on each 100th later on, and
        on all for methods that weigh samples. Override it where the Trainer trains on something
        else; the comparison is then only made for methods that weigh samples.

        Args:
            inputs: the batch as the model got it, and its labels.
            outputs: what the model returned, with its graph. Gradients are enabled only where the
                method weighs samples.

        Returns:
            One row for each sample, in the order in which they were collated.

        Raises:
            InputError: labels and logits are missing, or of shapes that we do not know.
        """
        model = self._inner_model()
        return sample_losses(
            inputs,
            outputs,
            problem=getattr(getattr(model, "config", None), "problem_type", None),
            predicts_next=(
                getattr(model, "loss_function", None) is ForCausalLMLoss
                and not getattr(model.config, "is_encoder_decoder", False)
            ),
        )

    # The Trainer's methods.

    def training_step(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Takes the samples' index out of the batch, for `compute_loss` to use."""
        batch: Any = inputs
        index = batch.pop(INDEX_KEY, None) if isinstance(inputs, MutableMapping) else None
        if index is None:
            raise StateError(
                "the training batch carries no index of its samples. A get_train_dataloader() of "
                "your own must get its loader from super().get_train_dataloader()."
            )
        self._index = index.cpu() if isinstance(index, Tensor) else torch.from_numpy(index)
        self._is_in_step = True
        try:
            loss = super().training_step(model, batch, *args, **kwargs)
        finally:
            self._is_in_step = False
            unseen = self._take_index()
        if unseen is not None:
            raise StateError(
                f"{type(self).__name__}.compute_loss did not call super().compute_loss(), so the "
                "selector learned nothing from this batch. Call it, or put your method below us: "
                "class MyTrainer(SelectiveTrainerMixin, TheirTrainer)."
            )
        return loss

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Any,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The Trainer's loss; in training the selector observes the terms that it is made of."""
        index = self._take_index()
        if index is None:  # evaluation, or once more for the same batch
            self._check_chosen()
            return super().compute_loss(
                model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch
            )
        if isinstance(self.selector, BatchSelector):
            index, inputs, num_items_in_batch = self._choose(
                model, index, inputs, num_items_in_batch
            )
        given = dict(inputs)  # label smoothing takes the labels out
        loss, outputs = self._loss_and_outputs(model, inputs, num_items_in_batch)
        loss = self._observe(index, given, outputs, loss, num_items_in_batch)
        return (loss, outputs) if return_outputs else loss

    # Choosing and observing.

    def _check_chosen(self) -> None:
        if self._is_in_step and isinstance(self.selector, BatchSelector):
            raise StateError(
                f"{type(self).__name__}.compute_loss called super().compute_loss() twice for one "
                f"batch, of which {self.selector.name} chooses once: the second call would train "
                "on all of it. Call it once, or take a method that selects epochs."
            )

    def _take_index(self) -> Tensor | None:
        index, self._index = self._index, None
        return index

    def _loss_and_outputs(self, model: nn.Module, inputs: Any, num_items: Any) -> Any:
        """The Trainer's loss and what the model returned: `(loss, outputs)`."""
        return super().compute_loss(
            model, inputs, return_outputs=True, num_items_in_batch=num_items
        )

    def _choose(self, model: nn.Module, index: Tensor, inputs: Any, num_items: Any) -> Any:
        """Of a pool the rows to train on: `(index, inputs, num_items)`, scored by a forward pass.

        `num_items` counts all pools of an optimizer step; this pool's share of it shrinks with it.
        """
        selector = cast("BatchSelector", self.selector)
        feedback, counts = self._score(model, index, inputs)
        keep = selector.select_batch(feedback)
        if num_items is not None:
            num_items = num_items * (counts[keep].sum() / counts.sum().clamp(min=1))
        return index[keep.cpu()], rows_of(inputs, keep), num_items

    def _score(
        self, model: nn.Module, index: Tensor, inputs: Mapping[str, Any]
    ) -> tuple[Feedback, Tensor]:
        """Feedback from a forward pass in evaluation mode, and each row's number of terms `[P]`."""
        tap = self._tap
        model.eval()  # without dropout, and without a trace in batch statistics
        try:
            with torch.no_grad(), nullcontext() if tap is None else tap.scoring():
                _, outputs = self._loss_and_outputs(model, dict(inputs), None)
                samples = self.compute_sample_losses(inputs, outputs)
                check_rows(samples, len(index))
                return self._feedback(index, samples, inputs), samples.counts
        finally:
            model.train()

    def _observe(
        self, index: Tensor, inputs: Mapping[str, Any], outputs: Any, loss: Tensor, num_items: Any
    ) -> Tensor:
        """Let the selector observe a batch, and weigh the loss if the method weighs samples."""
        selector = self.selector
        assert selector is not None
        weights = selector.weights_of(index)
        with torch.set_grad_enabled(weights is not None):
            samples = self.compute_sample_losses(inputs, outputs)
        check_rows(samples, len(index))
        scale = self._scale(loss, samples, outputs, num_items, weighs=weights is not None)
        if weights is not None and scale is not None:
            more = weights.to(samples.sums.device) - 1
            loss = loss + (more * samples.sums).sum() * scale
        selector.observe(self._feedback(index, samples, inputs))
        return loss

    def _feedback(
        self, index: Tensor, samples: SampleLosses, inputs: Mapping[str, Any]
    ) -> Feedback:
        return Feedback(
            index,
            samples.losses,
            logits=samples.logits,
            features=self._features(samples, inputs),
            labels=samples.labels,
            uncertainty=samples.uncertainty,
        )

    def _has_own_losses(self) -> bool:
        """Whether the samples' losses are computed by a method of the user's."""
        return type(self).compute_sample_losses is not ObservesBatches.compute_sample_losses

    def _scale(
        self, loss: Tensor, samples: SampleLosses, outputs: Any, num_items: Any, *, weighs: bool
    ) -> Tensor | None:
        """The factor between the samples' terms and the Trainer's loss, which checks the terms."""
        if not weighs and (self._has_own_losses() or self.label_smoother is not None):
            return None
        ranks = 1
        if self.args.average_tokens_across_devices and num_items is not None:
            ranks = self.accelerator.num_processes  # DDP averages gradients over them
        scales = [ranks / samples.counts.sum().clamp(min=1)]
        if num_items is not None:
            scales.append(ranks / torch.as_tensor(num_items, device=loss.device))
        router_loss = float(getattr(self._inner_model(), "router_aux_loss_coef", 0.0))
        extra = ranks * auxiliary_loss(outputs, router_loss)
        expected = [samples.sums.detach().sum() * scale + extra for scale in scales]
        found = self._loss_scale.find(loss.detach(), expected, samples, always=weighs)
        if found is None:
            raise InputError(
                f"the Trainer's loss is {float(loss.detach()):.6g}, but the terms that we read "
                f"from the logits come to {float(expected[0]):.6g}: it trains on another "
                "objective. Override compute_sample_losses(inputs, outputs) to return the terms of "
                "that objective" + (", or take a method without weights." if weighs else ".")
            )
        return scales[found]

    def _features(self, samples: SampleLosses, inputs: Mapping[str, Any]) -> Tensor | None:
        features = None if self._tap is None else self._tap.take_features()
        if samples.features is not None:
            return samples.features
        if features is None and self.selector is not None and self.selector.needs_features:
            raise InputError(
                f"{self.selector.name} sees each sample's feature, the input of the model's head, "
                f"and the head was {'not found' if self._tap is None else 'never called'}. Pass "
                "head=model.classifier (the layer whose output are the logits), switch off fused "
                "losses, or return features=[B, D] from compute_sample_losses."
            )
        if features is None or features.ndim != 3:
            return features
        return pool(
            features, inputs.get("attention_mask") if samples.mask is None else samples.mask
        )

    def _inner_model(self) -> nn.Module:
        accelerator: Accelerator = self.accelerator
        return cast("nn.Module", unwrap_peft_model(accelerator.unwrap_model(self.model)))
