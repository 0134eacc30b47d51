"""What a loader of a selection takes over from the arguments, or the loader, that it is given."""

from __future__ import annotations

import inspect
from collections.abc import Sized
from dataclasses import dataclass
from typing import Any, cast

from torch.utils.data import (
    DataLoader,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    default_collate,
)

from data_agent.errors import InputError
from data_agent.loading.collating import CollateWithIndex
from data_agent.loading.indexed import IndexedDataset
from data_agent.runtime import distributed

_REFUSED = {
    "shuffle": "the selector shuffles: each epoch's order is drawn from its seed",
    "sampler": "the selector decides which samples are visited",
    "batch_sampler": "the selector decides which samples are visited; pass batch_size",
}
_ITERATION = ("__iter__", "__len__", "_get_iterator")


@dataclass(slots=True)
class LoaderSettings:
    """What a `DataLoader` is built from, but for its sampler.

    Args:
        data: a map-style or iterable dataset, without indices or as `IndexedDataset`.
        batch_size: samples a step on each rank.
        drop_last: whether a last batch that is not full is left out.
        options: further arguments of `DataLoader`.
    """

    data: Any
    batch_size: int
    drop_last: bool
    options: dict[str, Any]

    def arguments(self) -> dict[str, Any]:
        """Arguments of `DataLoader`, without dataset and sampler."""
        return {"batch_size": self.batch_size, "drop_last": self.drop_last, **self.options}

    def indexed(self, num_samples: int) -> IndexedDataset:
        """The dataset with indices, which a collate function of one's own never sees.

        Raises:
            InputError: its length is not `num_samples`, or it is none that can be indexed.
        """
        dataset = self.data
        if not isinstance(dataset, IndexedDataset):  # else its own function carries the index
            dataset = IndexedDataset(dataset, as_pairs=self.hide_index())
        if len(dataset) != num_samples:
            raise InputError(
                f"the dataset has {len(dataset)} samples, but the selector was built for "
                f"num_samples={num_samples}. Use num_samples=len(dataset)."
            )
        return dataset

    def hide_index(self) -> bool:
        """Whether a collate function of one's own must be given samples without their index."""
        collate_fn = self.options.get("collate_fn")
        if collate_fn is None or collate_fn is default_collate:
            return False
        self.options["collate_fn"] = CollateWithIndex(collate_fn)
        return True


def settings_of(
    data: Any, *, batch_size: int | None, drop_last: bool | None, options: dict[str, Any]
) -> LoaderSettings:
    """The settings of a new loader: what is given, and what a given loader was built with.

    Args:
        data: a dataset or a `DataLoader`.
        batch_size: as given; None takes the loader's, or 1.
        drop_last: as given; None takes the loader's, or False.
        options: as given; they come before the loader's.

    Raises:
        InputError: an option that contradicts a selection, or a loader whose sampling or iteration
            a selection would silently replace.
    """
    for name, reason in _REFUSED.items():
        if options.get(name) not in (None, False):
            raise InputError(f"{name}= cannot be combined with a selection: {reason}.")
    options = {name: value for name, value in options.items() if name not in _REFUSED}
    if isinstance(data, DataLoader):
        loader = cast("DataLoader[Any]", data)
        _check_iteration(loader)
        _check_sampling(loader)
        batch_size = loader.batch_size if batch_size is None else batch_size
        drop_last = loader.drop_last if drop_last is None else drop_last
        data, options = loader.dataset, {**_options_of(loader), **options}
    batch_size = 1 if batch_size is None else batch_size
    return LoaderSettings(data, batch_size, bool(drop_last), options)


def _options_of(loader: DataLoader[Any]) -> dict[str, Any]:
    names = set(inspect.signature(DataLoader.__init__).parameters)
    names -= {"self", "dataset", "batch_size", "drop_last", *_REFUSED}
    if loader.num_workers == 0:
        names.discard("prefetch_factor")
    return {name: getattr(loader, name) for name in names if hasattr(loader, name)}


def _check_iteration(loader: DataLoader[Any]) -> None:
    """What a loader does to its batches on their way would be lost."""
    kind = type(loader)
    if vars(kind).get("is_selection"):
        return
    own = [
        name
        for name in _ITERATION
        if getattr(kind, name, None) not in (None, getattr(DataLoader, name))
    ]
    if own:
        raise InputError(
            f"{kind.__name__} has {', '.join(own)} of its own, which the loader of a selection "
            "would silently leave out. Pass the dataset itself, with the options that you need, "
            "and do what that loader does to batches in collate_fn=, in the dataset, or in a "
            "wrapper around the loader that comes back."
        )


def _check_sampling(loader: DataLoader[Any]) -> None:
    sampler = cast("object", loader.sampler)
    is_plain = type(sampler) in (RandomSampler, SequentialSampler, DistributedSampler)
    is_selection = hasattr(sampler, "selector")  # of another selector, or of this one
    if not (is_plain or is_selection) or loader.batch_size is None:
        kept = f"{type(sampler).__name__} and batch_size={loader.batch_size}"
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
    if not is_plain:
        return
    source = cast("Sized", getattr(sampler, "data_source", getattr(sampler, "dataset", None)))
    if len(source) != size:
        raise InputError(
            f"the loader's {type(sampler).__name__} samples from {len(source)} positions, its "
            f"dataset has {size}, and a selection would visit all of these. Pass "
            "torch.utils.data.Subset(dataset, positions) of those that are meant."
        )
    if isinstance(sampler, DistributedSampler):
        _check_ranks(cast("DistributedSampler[int]", sampler))


def _check_ranks(sampler: DistributedSampler[int]) -> None:
    world = distributed.world_size()
    if sampler.num_replicas != world:
        raise InputError(
            f"the loader's DistributedSampler deals to num_replicas={sampler.num_replicas} ranks, "
            f"but torch.distributed connects {world}, to which the selection would be dealt. Call "
            "torch.distributed.init_process_group() before selection_loader()."
        )
