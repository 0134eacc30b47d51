"""Hugging Face Trainer with a selector: `Trainer(...)` becomes `SelectiveTrainer(...)`.

    trainer = SelectiveTrainer(model, args, train_dataset=train_set, keep_ratio=0.5)
    trainer.train()

The model trains on the loss that the Trainer computes, whatever that is. The selector chooses the
samples, and each sample's loss is read from the same forward pass. Where a method weighs its
samples, the difference between weighted and unweighted terms is added, at the Trainer's scale.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn
from torch.utils.data import IterableDataset

from data_agent.errors import InputError, StateError
from data_agent.integrations._auto import AUTO, pick_method
from data_agent.integrations._head import find_head
from data_agent.integrations._recipe import Recipe, last_rounds_of, num_samples_of
from data_agent.integrations._refusals import (
    STATE_FILE,
    check_resumed,
    load_selector,
    refuse_what_would_be_wrong,
    state_file,
)
from data_agent.integrations._scale import LossScale
from data_agent.loading.collating import INDEX_KEY, CollateWithIndex
from data_agent.loading.indexed import IndexedDataset, IndexedStream
from data_agent.loading.sampler import SelectionSampler, use_selection_batches
from data_agent.losses import SampleLosses
from data_agent.runtime import checkpoint as files
from data_agent.selecting.batch_selector import BatchSelector
from data_agent.selecting.selector import Selector
from data_agent.selecting.taps import HeadTap

try:
    from transformers import Trainer, TrainerState
    from transformers.trainer import TRAINER_STATE_NAME

    from data_agent.integrations._observing import ObservesBatches
except ImportError as error:
    raise ImportError(
        "data_agent.integrations.transformers needs Hugging Face Transformers 5.2 and Accelerate "
        f"1.12 or newer, which cannot be imported ({error}). Install them: "
        "pip install -U 'data-agent[transformers]'"
    ) from error

__all__ = ["SampleLosses", "SelectiveTrainer", "SelectiveTrainerMixin"]

logger = logging.getLogger("data_agent")


class SelectiveTrainerMixin(ObservesBatches):
    """Gives a Trainer a selector: `class MyTrainer(SelectiveTrainerMixin, TheirTrainer)`.

    Each `train()` begins with a new selector, made from a name or by a callable. A `Selector` that
    is handed over as an object serves for one run.

    Args:
        args: positional arguments of the Trainer.
        selector: "auto", which picks label-aware where every row is known to have one class label
            and data-agent elsewhere, and logs what it picked; a method's name; a callable that is
            called with `num_samples=` and `epochs=`, such as
            `functools.partial(DataAgent, keep_ratio=0.5)`; or a selector.
        keep_ratio: share of the dataset visited in an epoch, in (0, 1]; default 0.5. With a name.
        head: the layer whose input is a sample's feature; by default the model's output embeddings,
            or its last linear layer that has one output for each label.
        kwargs: further arguments of the Trainer.

    Raises:
        InputError: arguments under which selection would be wrong; the message says what to do.
    """

    _is_for_trl = False
    """Whether a subclass knows how TRL's trainers compute their loss."""

    def __init__(
        self,
        *args: Any,
        selector: Selector | Callable[..., Selector] | str = AUTO,
        keep_ratio: float | None = None,
        head: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        self.selector = selector if isinstance(selector, Selector) else None
        self._recipe = Recipe(selector, keep_ratio)
        self._given_head = head
        self._tap: HeadTap | None = None
        self._index: Tensor | None = None
        self._run_has_begun = self._run_resumes = False
        super().__init__(*args, **kwargs)
        refuse_what_would_be_wrong(self)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        order = cls.__mro__
        if Trainer in order and order.index(Trainer) < order.index(SelectiveTrainerMixin):
            raise InputError(
                f"{cls.__name__} lists SelectiveTrainerMixin behind a Trainer, whose methods hide "
                "it. Write it first: class MyTrainer(SelectiveTrainerMixin, TheirTrainer)."
            )
        of_trl = [base.__name__ for base in order if base.__module__.startswith("trl.")]
        if of_trl and not cls._is_for_trl:
            raise InputError(
                f"{cls.__name__} has TRL's {of_trl[0]} among its bases. For SFTTrainer use "
                "data_agent.integrations.trl.SelectiveSFTTrainer; preference and reinforcement "
                "trainers do not train on one loss for each row of their dataset."
            )

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
        if (
            isinstance(getattr(dataloader, "dataset", None), IndexedDataset)
            and self.selector is not None
        ):
            return self.selector.schedule.num_kept
        return super().num_examples(dataloader)

    # The Trainer's private methods.

    def _inner_training_loop(self, *args: Any, **kwargs: Any) -> Any:
        self._run_has_begun = False  # auto_find_batch_size may call this several times
        self._run_resumes = kwargs.get("resume_from_checkpoint") is not None
        try:
            return super()._inner_training_loop(*args, **kwargs)
        finally:
            self._unhook()

    def _get_dataloader(
        self, dataset: Any, description: str, *args: Any, is_training: bool = False, **options: Any
    ) -> Any:
        if not is_training:
            return super()._get_dataloader(dataset, description, *args, **options)
        collator = self.data_collator
        is_stream = isinstance(dataset, IterableDataset)
        # What the Trainer does to a datasets.Dataset; a stream may not know its columns.
        prepare = None
        if hasattr(dataset, "remove_columns") and not is_stream:
            dataset = self._remove_unused_columns(dataset, description)
        else:
            removing = self._get_collator_with_removed_columns(collator, description)
            prepare = getattr(removing, "_remove_columns", None)
        kind = CollateWithIndex if is_stream else _CollateWithIndex
        self.data_collator = kind(collator, prepare)
        try:
            loader = super()._get_dataloader(
                self._indexed_stream(dataset)
                if is_stream
                else IndexedDataset(dataset, as_pairs=True),
                description,
                *args,
                is_training=True,
                **options,
            )
        finally:
            self.data_collator = collator
        if self.accelerator.num_processes == 1 and not is_stream:  # else Accelerate fills a rest
            self._check_sampler(loader)
            use_selection_batches(loader)
        return loader

    def _check_sampler(self, loader: Any) -> None:
        sampler = loader.batch_sampler.sampler
        if not isinstance(sampler, SelectionSampler):
            raise StateError(
                f"{type(self).__name__}._get_train_sampler() returned a {type(sampler).__name__}, "
                "so no epoch would be selected. Return super()._get_train_sampler(train_dataset)."
            )

    def _indexed_stream(self, stream: IterableDataset[Any]) -> IndexedStream:
        if not self._run_has_begun:
            self._begin_run()
        selector = cast("BatchSelector", self.selector)
        return IndexedStream(
            stream,
            selector,
            batch_size=self._train_batch_size,
            as_pairs=True,
            skip_observed=False,  # Accelerate reads on one process for all, the Trainer skips
        )

    def _get_train_sampler(self, train_dataset: Any = None) -> SelectionSampler:
        del train_dataset
        if not self._run_has_begun:
            self._begin_run()
        assert self.selector is not None
        return SelectionSampler(
            self.selector,
            batch_size=self._train_batch_size,
            rank=None,  # Accelerate deals our batches to the processes
            world=self.accelerator.num_processes,
            drop_last=self.args.dataloader_drop_last,
            skip_observed=False,  # the Trainer skips
            last_rounds=last_rounds_of(self.accelerator.num_processes),
        )

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.selector is None:
            return
        state = self.selector.state_dict()  # on every rank: a collective call
        if self.args.should_save:
            # trainer_state.json comes later: no checkpoint looks complete without our file.
            Path(output_dir).mkdir(parents=True, exist_ok=True)
            files.save(Path(output_dir) / STATE_FILE, state)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None or self.selector is None:
            return
        load_selector(self.selector, state_file(checkpoint, self.args))
        state = TrainerState.load_from_json(str(Path(checkpoint) / TRAINER_STATE_NAME))
        check_resumed(self.selector, self.args, state.global_step)

    # The run.

    def _begin_run(self) -> None:
        """A selector for this run, and the hook on its model's head."""
        world = self.accelerator.num_processes
        self.selector = self._picked_recipe().build(
            self.args,
            num_samples=num_samples_of(self.train_dataset, self.args, world),
            batch_size=self._train_batch_size,
            world=world,
            is_stream=isinstance(self.train_dataset, IterableDataset),
            resumes=self._run_resumes,
        )
        self._run_has_begun = True
        self._loss_scale = LossScale(self.args.gradient_accumulation_steps)
        self._unhook()
        self._tap = self._make_tap()

    def _picked_recipe(self) -> Recipe:
        """The recipe, "auto" replaced by the method that it picks for this run."""
        if self._recipe.selector != AUTO:
            return self._recipe
        reads_labels = not self._is_for_trl and not self._has_own_losses()
        config = getattr(self._inner_model(), "config", None)
        name, reason = pick_method(self.train_dataset, config, reads_labels=reads_labels)
        logger.info("selector='auto' picks %s: %s.", name, reason)
        return replace(self._recipe, selector=name)

    def _make_tap(self) -> HeadTap | None:
        """The hook that reads features of this run's model."""
        head = find_head(self._inner_model()) if self._given_head is None else self._given_head
        return None if head is None else HeadTap(head)

    def _unhook(self) -> None:
        if self._tap is not None:
            self._tap.remove()
        self._tap = None


class SelectiveTrainer(SelectiveTrainerMixin, Trainer):
    """`transformers.Trainer` with a selector; see `SelectiveTrainerMixin`."""


class _CollateWithIndex(CollateWithIndex):
    """The index as an array: Accelerate moves tensors to the device, and it is needed here."""

    def __call__(self, samples: list[Any]) -> Any:
        batch = super().__call__(samples)
        batch[INDEX_KEY] = batch[INDEX_KEY].numpy()
        return batch
