"""From data and a selector to a loader, which takes over the settings that it is given."""

from __future__ import annotations

import inspect
from collections.abc import Sized
from typing import Any, cast

from torch.utils.data import (
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    default_collate,
)

from data_agent.errors import InputError
from data_agent.loading.collating import CollateWithIndex
from data_agent.loading.indexed import IndexedDataset, IndexedStream
from data_agent.loading.sampler import (
    SelectionLoader,
    SelectionSampler,
    check_selector,
    use_selection_batches,
)
from data_agent.runtime import distributed
from data_agent.runtime.names import did_you_mean
from data_agent.selecting.batch_selector import BatchSelector
from data_agent.selecting.selector import Selector

_REFUSED = {
    "shuffle": "the selector shuffles: each epoch's order is drawn from its seed",
    "sampler": "the selector decides which samples are visited",
    "batch_sampler": "the selector decides which samples are visited; pass batch_size",
}
_OF_WORKERS = {"prefetch_factor", "persistent_workers", "multiprocessing_context", "timeout"}
_ITERATION = ("__iter__", "__len__", "_get_iterator", "_index_sampler")


def selection_loader(
    data: Any,
    selector: Selector,
    *,
    batch_size: int | None = None,
    drop_last: bool | None = None,
    **options: Any,
) -> DataLoader[Any]:
    """A `DataLoader` over the samples that `selector` chooses, each batch with its index.

    Under `torch.distributed` each rank gets its share; every rank makes the same number of steps.
    Where the last batch would be smaller than any that a loader of all samples makes, the last
    ones share their samples.

    Args:
        data: a map-style dataset, or a `DataLoader` whose settings are kept. For a batch selector
            an iterable dataset too: a stream of pools, see `IndexedStream`.
        selector: decides which samples are visited; `num_samples` is the dataset's length.
        batch_size: samples a step on each rank; default 1, or the given loader's.
        drop_last: leave out a last batch that is not full, which lowers the budget accordingly.
        options: further arguments of `DataLoader` (`num_workers`, `collate_fn`, ...).

    Returns:
        A loader whose batches are those of the dataset and, as last element or under the key
        "sample_index", the int64 `[B]` index on the CPU.

    Raises:
        InputError: the dataset's length is not `num_samples`, an option that contradicts a
            selection, or a loader whose sampling or iteration cannot be replaced.
    """
    data, options = settings_of(data, batch_size, drop_last, options)
    check_selector(selector)
    if isinstance(data, IterableDataset) and isinstance(selector, BatchSelector):
        stream = cast("IterableDataset[Any]", data)
        return DataLoader(_indexed_stream(stream, selector, options), **options)
    dataset = indexed(data, selector, options)
    sampler = SelectionSampler(
        selector,
        batch_size=options["batch_size"],
        rank=distributed.rank(),
        world=distributed.world_size(),
        drop_last=options["drop_last"],
        last_rounds="spread",
        data=dataset,
    )
    loader = SelectionLoader(dataset, sampler=sampler, **options)
    use_selection_batches(loader)
    return loader


def settings_of(
    data: Any, batch_size: int | None, drop_last: bool | None, options: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """The dataset, and the arguments of a new `DataLoader` over it, but for its sampler.

    Of a `DataLoader` its settings are taken where none are given; refused is one whose sampling or
    iteration a selection would silently replace.
    """
    known = [*inspect.signature(DataLoader.__init__).parameters]
    for name in options.keys() - known:
        raise InputError(
            f"selection_loader() got {name}=, which no DataLoader takes.{did_you_mean(name, known)}"
        )
    for name, reason in _REFUSED.items():
        if options.get(name) not in (None, False):
            raise InputError(f"{name}= cannot be combined with a selection: {reason}.")
    settings: dict[str, Any] = {"batch_size": 1, "drop_last": False}
    if isinstance(data, DataLoader):
        loader = cast("DataLoader[Any]", data)
        _check_iteration(loader)
        _check_sampling(loader)
        names = {*known} - {"self", "dataset"}
        settings = {name: getattr(loader, name) for name in names if hasattr(loader, name)}
        data = loader.dataset
    given = {"batch_size": batch_size, "drop_last": drop_last}
    settings |= {name: value for name, value in given.items() if value is not None} | options
    if settings.get("num_workers") == 0:  # without workers those of the loader given mean nothing
        for name in _OF_WORKERS - options.keys():
            settings.pop(name, None)
    return data, {name: value for name, value in settings.items() if name not in _REFUSED}


def indexed(data: Any, selector: Selector, options: dict[str, Any]) -> IndexedDataset:
    """The dataset with indices, which a collate function of one's own in `options` never sees."""
    num_samples = selector.schedule.num_samples
    if not isinstance(data, IndexedDataset):  # else its own function carries the index
        data = IndexedDataset(data, as_pairs=_hide_index(options))
    if len(data) != num_samples:
        raise InputError(
            f"the dataset has {len(data)} samples, but the selector was built for "
            f"num_samples={num_samples}. Use num_samples=len(dataset)."
        )
    return data


def _indexed_stream(
    stream: IterableDataset[Any], selector: BatchSelector, options: dict[str, Any]
) -> IndexedStream:
    batch_size, world = options["batch_size"], distributed.world_size()
    num_samples, round_size = selector.schedule.num_samples, batch_size * world
    if num_samples % round_size:
        fitting = max(1, num_samples // round_size) * round_size
        raise InputError(
            f"num_samples={num_samples} of a stream must be whole pools on each rank, that is a "
            f"multiple of {round_size}. Use for example {fitting}."
        )
    if options.get("persistent_workers") and selector.schedule.epochs > 1:
        raise InputError(
            "persistent_workers=True keeps copies of the stream that know nothing of a restore; "
            "with more than one epoch leave it off."
        )
    selector.use_loader(batch_size, world=world, drop_last=options["drop_last"])
    return IndexedStream(
        stream,
        selector,
        batch_size=batch_size,
        rank=distributed.rank(),
        world=world,
        as_pairs=_hide_index(options),
    )


def _hide_index(options: dict[str, Any]) -> bool:
    """Let a collate function of one's own get samples without their index; whether there is one."""
    collate_fn = options.get("collate_fn")
    if collate_fn is None or collate_fn is default_collate:
        return False
    options["collate_fn"] = CollateWithIndex(collate_fn)
    return True


def _check_iteration(loader: DataLoader[Any]) -> None:
    """What a loader does to its batches on their way would be lost."""
    kind = type(loader)
    own = [
        name
        for name in _ITERATION
        if getattr(kind, name, None) not in (None, getattr(DataLoader, name))
    ]
    if own and kind is not SelectionLoader:
        raise InputError(
            f"{kind.__name__} has {', '.join(own)} of its own, which the loader of a selection "
            "would silently leave out. Pass the dataset itself, with the options that you need, "
            "and do what that loader does to batches in collate_fn=, in the dataset, or in a "
            "wrapper around the loader that comes back."
        )


def _check_sampling(loader: DataLoader[Any]) -> None:
    """A sampler that means something else than all samples, once each, would be lost."""
    sampler: Any = loader.sampler
    name = type(sampler).__name__
    is_plain = type(sampler) in (RandomSampler, SequentialSampler, DistributedSampler)
    is_selection = hasattr(sampler, "selector")  # of another selector, or of this one
    if not (is_plain or is_selection) or loader.batch_size is None:
        kept = f"{name} and batch_size={loader.batch_size}"
        if loader.batch_size is None and loader.batch_sampler is not None:
            kept = f"a batch_sampler, {type(cast('object', loader.batch_sampler)).__name__}"
        raise InputError(
            f"the loader samples by {kept}, which a selection would silently replace. Pass the "
            "dataset itself, or a loader with batch_size=, and shuffle=True or False."
        )
    size = len(cast("Sized", loader.dataset))
    if isinstance(sampler, RandomSampler) and (sampler.replacement or sampler.num_samples != size):
        raise InputError(
            "the loader draws with replacement or a number of samples of its own; a selection "
            "visits distinct samples and has its own budget. Pass the dataset itself."
        )
    source: Any = getattr(sampler, "data_source", getattr(sampler, "dataset", None))
    if is_plain and len(source) != size:
        raise InputError(
            f"the loader's {name} samples from {len(source)} positions, its "
            f"dataset has {size}, and a selection would visit all of these. Pass "
            "torch.utils.data.Subset(dataset, positions) of those that are meant."
        )
    world, dealt_to = distributed.world_size(), getattr(sampler, "num_replicas", None)
    if is_plain and dealt_to not in (None, world):
        raise InputError(
            f"the loader's DistributedSampler deals to num_replicas={dealt_to} ranks, "
            f"but torch.distributed connects {world}, to which the selection would be dealt. Call "
            "torch.distributed.init_process_group() before selection_loader()."
        )
