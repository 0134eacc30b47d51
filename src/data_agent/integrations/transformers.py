"""Hugging Face Trainer with a selector: `Trainer(...)` becomes `SelectiveTrainer(...)`.

The model trains on the loss that the Trainer computes, whatever that is. The selector chooses the
samples, and each sample's loss is read from the same forward pass. Where a method weighs its
samples, the difference between weighted and unweighted terms is added, at the Trainer's scale.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset

from data_agent.errors import InputError, StateError
from data_agent.integrations._auto import AUTO
from data_agent.integrations._batches import (
    CollateCarried,
    CollateMapping,
    CollateWithIndexArray,
    LossScale,
    feedback_of,
    find_head,
    is_detector,
    labels_of,
    rows_of,
    scoring,
    smoothed_sum,
)
from data_agent.integrations._run import (
    Given,
    check_bases,
    check_given,
    ending_run,
    indexed_rows,
    load_selector,
    new_selector,
    refuse_what_would_be_wrong,
    save_selector,
)
from data_agent.integrations._steps import (
    check_asked,
    check_without_batch,
    naming_sample_losses,
    take_index,
)
from data_agent.integrations._trusted import join_trusted
from data_agent.loading.indexed import IndexedDataset
from data_agent.loading.sampler import SelectionSampler, use_selection_batches
from data_agent.losses import DetectorLosses, SampleLosses, sample_losses
from data_agent.selecting.batch_selector import BatchSelector
from data_agent.selecting.selector import Selector
from data_agent.selecting.taps import HeadTap

try:
    from transformers import Trainer, TrainerState
    from transformers.loss.loss_utils import ForCausalLMLoss
    from transformers.trainer import TRAINER_STATE_NAME
    from transformers.trainer_utils import unwrap_peft_model
except ImportError as error:
    raise ImportError(
        "data_agent.integrations.transformers needs Hugging Face Transformers 5.2 and Accelerate "
        f"1.12 or newer, which cannot be imported ({error}). In a "
        "checkout of data_agent: pip install '.[transformers]'"
    ) from error

__all__ = ["SampleLosses", "SelectiveTrainer", "SelectiveTrainerMixin"]

_Base = Trainer if TYPE_CHECKING else object


class SelectiveTrainerMixin(_Base):
    """Gives a Trainer a selector: `class MyTrainer(SelectiveTrainerMixin, TheirTrainer)`.

    Each `train()` begins with a new selector, made from a name or by a callable. A `Selector` that
    is handed over as an object serves for one run.

    Args:
        args: positional arguments of the Trainer.
        selector: "auto", which picks noise-aware where every row is known to have one class label,
            label-aware of fewer than ten classes, and data-agent elsewhere or with trusted rows,
            and logs what it picked; a method's name;
            a callable that is called with `num_samples=` and `epochs=` (and `trusted=`, positions,
            if there are trusted rows), such as `functools.partial(DataAgent, keep_ratio=0.5)`; or a
            selector.
        keep_ratio: share of the dataset visited in an epoch, in (0, 1]; default 0.5. With a name.
        trusted_dataset: rows like those of `train_dataset`, behind which they are appended: they
            look like what the model will be judged on, and are right. They are trained on within
            the same budget, and the agent's reward is learned from them.
        head: the layer whose input is a sample's feature; by default the model's output embeddings,
            or its last linear layer that has one output for each label; object detectors have none,
            and their feature is the mean of their query embeddings.
        kwargs: further arguments of the Trainer.

    Raises:
        InputError: arguments under which selection would be wrong; the message says what to do.
    """

    selector: Selector | None
    """The running or last run's selector; None before the first run begins."""

    trusted_rows: range = range(0)
    """Positions in `train_dataset` of the rows that `trusted_dataset` brought."""

    _joined: Any = None
    """The training data with these rows."""

    _of_trl: type | None = None
    """The Trainer of TRL whose loss a subclass knows."""

    _loss_scale: LossScale
    _tap: HeadTap | None = None
    _images: DetectorLosses | None = None
    _run_has_begun = _run_resumes = False
    _batch: list[Tensor] | None = None
    """In a training step the index of its samples, until `compute_loss` takes it; else None."""

    def __init__(
        self,
        *args: Any,
        selector: Given = AUTO,
        keep_ratio: float | None = None,
        trusted_dataset: Any = None,
        head: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        check_given(selector, keep_ratio)
        self._given_selector, self._keep_ratio, self._given_head = selector, keep_ratio, head
        self.selector = selector if isinstance(selector, Selector) else None
        super().__init__(*args, **kwargs)
        refuse_what_would_be_wrong(self)
        if trusted_dataset is not None:
            self.trusted_rows = join_trusted(self, self._prepared(trusted_dataset))

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        check_bases(cls, SelectiveTrainerMixin, Trainer, known=cls._of_trl)

    # What a subclass may define.

    def compute_sample_losses(self, inputs: Mapping[str, Any], outputs: Any) -> SampleLosses:
        """Each sample's loss in the batch that the model has just seen.

        By default the terms of the model's own loss: cross entropy of classes, pixels or tokens
        (shifted for causal models), binary cross entropy, squared error, parts of a detector's
        loss; they are compared with the Trainer's loss. Override it where the Trainer trains on
        something else; the comparison is then only made for methods that weigh samples.

        Args:
            inputs: the batch as the model got it, and its labels.
            outputs: what the model returned, with its graph. Gradients are enabled only where the
                method weighs samples.

        Returns:
            One row for each sample, in the order in which they were collated.

        Raises:
            InputError: labels and logits are missing, or of shapes that we do not know.
        """
        if self._images:
            samples = self._images.take(outputs)
            return samples if self._tap is None else replace(samples, features=None)
        about = labels_of(getattr(self._inner_model(), "config", None))
        return sample_losses(inputs, outputs, predicts_next=self._predicts_next(), **about)

    def on_samples(self, index: Tensor, *, is_backward: bool) -> None:
        """Called before samples (int64 `[B]`) are trained on, or, not `is_backward`, scored."""

    # The Trainer's public methods.

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Adds the selector's metrics, as "data_agent/...", to what training steps log."""
        if self.selector is not None and "loss" in logs:
            metrics = self.selector.metrics().items()
            # Without what is not known yet (NaN): the Trainer writes its logs to a JSON file.
            logs.update({f"data_agent/{k}": v for k, v in metrics if not math.isnan(v)})
        super().log(logs, *args, **kwargs)

    def num_examples(self, dataloader: Any) -> int:
        """Samples in an epoch, for the Trainer's speed figures: in training the selected ones."""
        is_ours = isinstance(getattr(dataloader, "dataset", None), IndexedDataset)
        if is_ours and self.selector is not None:
            return self.selector.schedule.num_kept
        return super().num_examples(dataloader)

    def training_step(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Takes the samples' index out of the batch, for `compute_loss` to use."""
        self._batch = unseen = [index := take_index(inputs)]
        selector = cast("Selector", self.selector)
        selector.note_given_out(selector.epoch or 0, index)  # loaders read ahead of the loop
        try:
            with naming_sample_losses(selector):
                loss = super().training_step(model, inputs, *args, **kwargs)
        finally:
            self._batch = None
        check_asked(self, unseen)
        return loss

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Any,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The Trainer's loss; in training the selector observes the terms that it is made of."""
        selector = cast("Selector", self.selector)
        if not self._batch:  # evaluation, or once more for the same batch
            check_without_batch(self, inputs)
            return super().compute_loss(
                model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch
            )
        index, num_items = self._batch.pop(), num_items_in_batch
        if isinstance(selector, BatchSelector):
            index, inputs, num_items = self._choose(selector, model, index, inputs, num_items)
        self.on_samples(index, is_backward=True)
        given = dict(inputs)  # label smoothing takes the labels out
        weights = selector.weights_of(index)
        if self._images:
            self._images.with_graph = weights is not None
        loss, outputs = self._loss_and_outputs(model, inputs, num_items)
        with torch.set_grad_enabled(weights is not None):
            samples = self._samples(index, given, outputs)
        scale = self._scale(loss, samples, given, outputs, num_items, weighs=weights is not None)
        if weights is not None and scale is not None:
            more = weights.to(samples.sums.device) - 1
            loss = loss + (more * samples.sums).sum() * scale
        selector.observe(feedback_of(index, samples, given, tap=self._tap, selector=selector))
        return (loss, outputs) if return_outputs else loss

    def _loss_and_outputs(self, model: nn.Module, inputs: Any, num_items: Any) -> Any:
        """The Trainer's loss and what the model returned: `(loss, outputs)`."""
        return super().compute_loss(
            model, inputs, return_outputs=True, num_items_in_batch=num_items
        )

    def _choose(
        self, selector: BatchSelector, model: nn.Module, index: Tensor, inputs: Any, num_items: Any
    ) -> Any:
        """Of a pool the rows to train on, by a forward pass; its share of `num_items` shrinks."""
        self.on_samples(index, is_backward=False)
        with scoring(model, self._tap, self._images):
            _, outputs = self._loss_and_outputs(model, dict(inputs), None)
            samples = self._samples(index, inputs, outputs)
            feedback = feedback_of(index, samples, inputs, tap=self._tap, selector=selector)
        keep, counts = selector.select_batch(feedback), samples.counts
        if num_items is not None:
            num_items = num_items * (counts[keep].sum() / counts.sum().clamp(min=1))
        return index[keep.cpu()], rows_of(inputs, keep), num_items

    def _samples(self, index: Tensor, inputs: Mapping[str, Any], outputs: Any) -> SampleLosses:
        samples = self.compute_sample_losses(inputs, outputs)
        if len(samples.sums) != len(index):
            raise InputError(
                f"the batch holds {len(index)} samples, but {len(samples.sums)} losses came. Does "
                "the data collator put several samples into one row? Use one that pads, or "
                "override compute_sample_losses to return a row for each sample."
            )
        return samples

    def _scale(
        self,
        loss: Tensor,
        samples: SampleLosses,
        inputs: Mapping[str, Any],
        outputs: Any,
        num_items: Any,
        *,
        weighs: bool,
    ) -> Tensor | None:
        """The factor between the samples' terms and the Trainer's loss, which checks the terms."""
        if not weighs and self._has_own_losses():
            return None
        total, labels = samples.sums.sum(), inputs.get("labels")
        if self.label_smoother and not (weighs or self.compute_loss_func or labels is None):
            shift = self._predicts_next()
            total = smoothed_sum(self.label_smoother, outputs, labels, samples, shift=shift)
        return self._loss_scale.of(loss, samples, outputs, num_items, total=total, always=weighs)

    def _predicts_next(self) -> bool:
        """Whether labels are shifted: each position's logits are about the token behind it."""
        model = self._inner_model()
        is_causal = getattr(model, "loss_function", None) is ForCausalLMLoss
        return is_causal and not getattr(model.config, "is_encoder_decoder", False)

    def _has_own_losses(self) -> bool:
        """Whether the samples' losses are computed by a method of the user's."""
        return type(self).compute_sample_losses is not SelectiveTrainerMixin.compute_sample_losses

    # The run.

    def _inner_training_loop(self, *args: Any, **kwargs: Any) -> Any:
        self._run_has_begun = False  # auto_find_batch_size may call this several times
        self._run_resumes = kwargs.get("resume_from_checkpoint") is not None
        with ending_run(self):
            return super()._inner_training_loop(*args, **kwargs)

    def _begin_run(self) -> Selector:
        """This run's selector, built when it is first asked for, with the hook on the head."""
        if self._run_has_begun and self.selector is not None:
            return self.selector
        model, args = self._inner_model(), self.args
        reads_labels = self._of_trl is None and not self._has_own_losses()
        selector = new_selector(self, reads_labels=reads_labels)
        self._loss_scale = LossScale(
            args.gradient_accumulation_steps,
            ranks=self.accelerator.num_processes if args.average_tokens_across_devices else 1,
            router_loss=float(getattr(model, "router_aux_loss_coef", 0.0)),
        )
        self._unhook()
        self._tap = self._make_tap()
        self._images = DetectorLosses(model) if is_detector(model) else None
        self.selector, self._run_has_begun = selector, True
        return selector

    def _make_tap(self) -> HeadTap | None:
        """The hook that reads features of this run's model."""
        head = find_head(self._inner_model()) if self._given_head is None else self._given_head
        return None if head is None else HeadTap(head)

    def _unhook(self) -> None:
        for reader in (self._tap, self._images):
            if reader is not None:
                reader.remove()
        self._tap = self._images = None

    def _inner_model(self) -> nn.Module:
        unwrapped: Any = self.accelerator.unwrap_model(cast("nn.Module", self.model))
        return cast("nn.Module", unwrap_peft_model(unwrapped))

    def _prepared(self, dataset: Any) -> Any:
        """Rows as the Trainer's own became in its constructor."""
        return dataset

    # Loaders and checkpoints.

    def _get_dataloader(
        self, dataset: Any, description: str, *args: Any, is_training: bool = False, **options: Any
    ) -> Any:
        if not is_training:
            return super()._get_dataloader(dataset, description, *args, **options)
        collator, is_stream = self.data_collator, isinstance(dataset, IterableDataset)
        kind = CollateMapping if is_stream else CollateWithIndexArray
        if isinstance(dataset, IndexedDataset):
            dataset, kind = dataset.wrapped, CollateCarried
        # What the Trainer does to a datasets.Dataset; a stream may not know its columns.
        removing = self._get_collator_with_removed_columns(collator, description)
        if hasattr(dataset, "remove_columns") and not is_stream:
            dataset = self._remove_unused_columns(dataset, description)
        self.data_collator = kind(collator, getattr(removing, "_remove_columns", None))
        try:
            loader = super()._get_dataloader(
                indexed_rows(self, dataset), description, *args, is_training=True, **options
            )
        finally:
            self.data_collator = collator
        if self.accelerator.num_processes > 1 or is_stream:  # Accelerate fills a rest
            return loader
        sampler = cast("Any", loader.batch_sampler).sampler
        if not isinstance(sampler, SelectionSampler):
            raise StateError(
                f"{type(self).__name__}._get_train_sampler() returned a {type(sampler).__name__}, "
                "so no epoch would be selected. Return super()._get_train_sampler(train_dataset)."
            )
        use_selection_batches(loader)
        return loader

    def _get_train_sampler(self, train_dataset: Any = None) -> SelectionSampler:
        # Accelerate deals our batches to the processes, and the Trainer skips.
        return SelectionSampler(
            self._begin_run(),
            batch_size=self._train_batch_size,
            rank=None,
            world=self.accelerator.num_processes,
            drop_last=self.args.dataloader_drop_last,
            skip_observed=False,
            data=train_dataset,
        )

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.selector is not None:
            save_selector(self.selector, output_dir, should_save=self.args.should_save)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None and self.selector is not None:
            state = TrainerState.load_from_json(str(Path(checkpoint) / TRAINER_STATE_NAME))
            load_selector(self.selector, checkpoint, self.args, state.global_step)


class SelectiveTrainer(SelectiveTrainerMixin, Trainer):
    """`transformers.Trainer` with a selector; see `SelectiveTrainerMixin`."""
