"""Accelerate: a loader of selected samples for `accelerator.prepare` to deal to the processes.

`accelerator.save_state` and `load_state` hold the selector. After `load_state` the same loop goes
on behind the last observed batch, without `skip_first_batches`.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from itertools import chain, cycle, islice
from typing import Any, cast
from weakref import WeakKeyDictionary, ref

from torch.utils.data import DataLoader, Dataset, IterableDataset

from data_agent.errors import InputError, StateError
from data_agent.loading.indexed import ForwardsAttributes, IndexedDataset
from data_agent.loading.loader import indexed, settings_of
from data_agent.loading.sampler import SelectionSampler, given_out, use_selection_batches
from data_agent.selecting.selector import Selector

try:
    from accelerate import Accelerator
    from accelerate.data_loader import DataLoaderShard
    from accelerate.utils import DistributedType, ParallelismConfig
except ImportError as error:
    raise ImportError(
        "data_agent.integrations.accelerate needs the package accelerate (1.12 or newer), which "
        f"cannot be imported ({error}). In a checkout of "
        "data_agent: pip install '.[accelerate]'"
    ) from error


__all__ = ["selection_loader"]


def selection_loader(
    data: Any,
    selector: Selector,
    accelerator: Accelerator,
    *,
    batch_size: int | None = None,
    drop_last: bool | None = None,
    **options: Any,
) -> DataLoader[Any]:
    """A loader over the samples that `selector` chooses; hand it to `accelerator.prepare`.

    The selector is registered with the accelerator: `save_state` and `load_state` hold it, in the
    place of one with the same settings whose loader nobody uses any more, as after all attempts but
    the last one of `find_executable_batch_size`. Several processes make the same number of steps
    on full batches: the last round is filled with the epoch's first samples, also after a restore.

    Args:
        data: a map-style dataset, or a `DataLoader` (not a prepared one) whose settings are kept.
        selector: decides which samples are visited; `num_samples` is the dataset's length.
        accelerator: whose `prepare` the loader goes through; its dataloader_config is honoured.
        batch_size: samples a step on each process, or on all together with `split_batches`;
            default 1, or the given loader's.
        drop_last: leave out a last round that is not full, which lowers the budget accordingly.
        options: further arguments of `DataLoader` (`num_workers`, `collate_fn`, ...).

    Returns:
        A loader as `data_agent.selection_loader`; iterating it unprepared is an error.

    Raises:
        InputError: as `data_agent.selection_loader`, or a setting of the accelerator under which
            the processes would not share the selection.
    """
    _check_accelerator(accelerator)
    if isinstance(data, IterableDataset):
        raise InputError(
            f"{type(data).__name__} is a stream, which data_agent.selection_loader shares among "
            "the processes by itself (for a batch selector). Use that, and do not prepare it."
        )
    num_processes = accelerator.num_processes
    data, options = settings_of(data, batch_size, drop_last, options)
    dataset = indexed(data, selector, options)
    share = _share(options["batch_size"], accelerator)
    sampler = _DealtSampler(selector, dataset, share, num_processes, drop_last=options["drop_last"])
    _check_even(accelerator, sampler)
    _register(accelerator, selector, sampler)
    sized = _SizedByEpoch(dataset, sampler)
    sampler.note_batches(accelerator, sized)
    loader = _UnpreparedLoader(sized, sampler=sampler, **options)
    if num_processes == 1:
        use_selection_batches(loader)
    return loader


class _DealtSampler(SelectionSampler):
    """The whole epoch in whole rounds, the same on every process, for Accelerate to deal.

    Accelerate fills a last round itself, but with the first batches that it sees: after a restore
    those would be others.
    """

    def __init__(
        self,
        selector: Selector,
        dataset: IndexedDataset,
        batch_size: int,
        num_processes: int,
        *,
        drop_last: bool,
    ) -> None:
        super().__init__(
            selector,
            batch_size=batch_size,
            rank=None,
            world=num_processes,
            drop_last=drop_last,
            last_rounds="filled" if num_processes > 1 else "spread",
            data=dataset,
        )
        self._tell_epoch = getattr(dataset, "set_epoch", None)
        self._find_loaders: Callable[[], list[Any]] = list

    def __len__(self) -> int:
        return self.num_selected + self.num_repeated

    def __iter__(self) -> Iterator[int]:
        selected, repeated = super().__iter__(), self.num_repeated
        if not repeated:
            return selected
        whole = self._order(skip_observed=False)[0].tolist()
        return chain(selected, islice(cycle(whole), repeated))

    @property
    def num_selected(self) -> int:
        """Samples of the running epoch."""
        return super().__len__()

    @property
    def num_repeated(self) -> int:
        """Samples that come twice, to fill the last round."""
        return self.selector.schedule.num_repeated(self.num_selected)

    def set_epoch(self, epoch: int) -> None:
        """Tell a dataset that wants to know it the running epoch, which the agent counts.

        `epoch` is how often Accelerate's loader ran out since it was built: not the run's epoch
        after a restore, or after an epoch that was left early.
        """
        del epoch
        for loader in self._find_loaders():  # one of them is about to be iterated
            loader.base_dataloader.__class__ = _NotingLoader
            loader.base_dataloader.selector = self.selector
        if self._tell_epoch is not None:
            self._tell_epoch(self._epoch())

    def note_batches(self, accelerator: Accelerator, data: _SizedByEpoch) -> None:
        """Let the loaders over `data` that the accelerator will make tell of their batches."""
        held_by, held = ref(accelerator), ref(data)

        def find() -> list[Any]:
            prepared: Any = getattr(held_by(), "_dataloaders", [])
            # Of a dispatcher's batches each process gets a part.
            return [x for x in prepared if type(x) is DataLoaderShard and x.dataset is held()]

        self._find_loaders = find


class _NotingLoader(DataLoader[Any]):
    """What Accelerate takes a process's batches from, before it moves them to a device."""

    selector: Selector

    def __iter__(self) -> Any:
        return given_out(self.selector, super().__iter__())


class _SizedByEpoch(ForwardsAttributes, Dataset[Any]):
    """The dataset; Accelerate's `gather_for_metrics` learns from it how long the epoch is."""

    def __init__(self, dataset: IndexedDataset, sampler: _DealtSampler) -> None:
        self.__sampler: _DealtSampler | None = sampler
        self.wrapped = dataset

    def __len__(self) -> int:
        return len(self.wrapped)

    def __getitem__(self, index: int) -> Any:
        return self.wrapped[index]

    def __getitems__(self, indices: list[int]) -> list[Any]:
        return self.wrapped.__getitems__(indices)

    def __getstate__(self) -> dict[str, Any]:
        return {
            **vars(self),
            "_SizedByEpoch__sampler": None,
        }  # worker processes need the samples only

    def set_epoch(self, epoch: int) -> None:
        """Nothing: Accelerate tells its own count here, and the sampler tells the agent's."""

    @property
    def total_dataset_length(self) -> int:
        """Samples of the running epoch: where repeated ones begin."""
        return len(self) if self.__sampler is None else self.__sampler.num_selected


class _UnpreparedLoader(DataLoader[Any]):
    """Accelerate builds another loader from its parts."""

    def __iter__(self) -> Any:
        raise StateError(
            "this loader was not prepared: each process would visit the whole epoch, and no batch "
            "would move to its device. Write loader = accelerator.prepare(loader)."
        )


_samplers: WeakKeyDictionary[Selector, ref[_DealtSampler]] = WeakKeyDictionary()
"""The sampler that was made last for each selector."""


def _register(accelerator: Accelerator, selector: Selector, sampler: _DealtSampler) -> None:
    """Let `save_state` and `load_state` hold the selector, and no attempt that it replaces."""
    registered = cast("list[object]", accelerator._custom_objects)  # pyright: ignore[reportPrivateUsage]
    given_up = [
        id(other)
        for other in registered
        if isinstance(other, Selector)
        and other is not selector
        and _identity(other) == _identity(selector)
        and not _has_loader(other, accelerator)
    ]
    registered[:] = [other for other in registered if id(other) not in given_up]
    _samplers[selector] = ref(sampler)
    if not any(other is selector for other in registered):
        accelerator.register_for_checkpointing(selector)


def _has_loader(selector: Selector, accelerator: Accelerator) -> bool:
    """Whether anybody but Accelerate holds a loader of this selector; True for one not of ours."""
    if selector not in _samplers:
        return True
    prepared = cast("list[Any]", accelerator._dataloaders)  # pyright: ignore[reportPrivateUsage]
    for place in reversed(range(len(prepared))):
        if isinstance(prepared[place].dataset, _SizedByEpoch):
            loader = ref(prepared.pop(place))
            gc.collect()
            if (kept := loader()) is not None:
                prepared.insert(place, kept)
    gc.collect()  # one that was never prepared; an error's frames may hold it in a circle
    return _samplers[selector]() is not None


def _identity(selector: Selector) -> tuple[object, ...]:
    plan = selector.schedule
    run = (plan.num_samples, plan.epochs, plan.keep_ratio, plan.kind, selector.seed)
    return (type(selector), run, selector.settings())


def _check_accelerator(accelerator: object) -> None:
    if not isinstance(accelerator, Accelerator):
        raise InputError(
            f"the third argument is the Accelerator that prepares the loader, got {accelerator!r}."
        )
    if accelerator.use_stateful_dataloader:
        raise InputError(
            "DataLoaderConfiguration(use_stateful_dataloader=True) would restore the position in "
            "an epoch a second time; the selector's state holds it. Leave it False."
        )
    if accelerator.distributed_type == DistributedType.MEGATRON_LM:
        raise InputError(
            "Megatron-LM computes the loss inside its train_step, so no losses of single samples "
            "reach learn(). Use DDP, FSDP or DeepSpeed."
        )
    parallelism: ParallelismConfig | None = accelerator.parallelism_config
    if parallelism is not None and parallelism.non_data_parallel_size > 1:
        raise InputError(
            f"ParallelismConfig has tp_size={parallelism.tp_size}, cp_size={parallelism.cp_size}, "
            f"sp_size={parallelism.sp_size}: several processes would report one and the same "
            "batch. Only data parallelism is supported (dp_replicate_size, dp_shard_size)."
        )


def _share(batch_size: int, accelerator: Accelerator) -> int:
    """Samples a step on each process."""
    if not accelerator.split_batches:
        return batch_size
    if batch_size % accelerator.num_processes:
        raise InputError(
            f"split_batches=True splits batches of {batch_size} among "
            f"{accelerator.num_processes} processes; batch_size must be a multiple of that."
        )
    return batch_size // accelerator.num_processes


def _check_even(accelerator: Accelerator, sampler: _DealtSampler) -> None:
    if accelerator.even_batches or not sampler.num_repeated:
        return
    raise InputError(
        f"even_batches=False forbids to repeat samples, but {sampler.num_selected} samples an "
        f"epoch do not fill the {accelerator.num_processes} processes' last batches: they would "
        "make different numbers of steps and wait for each other for ever. Use drop_last=True, or "
        "leave even_batches=True."
    )
