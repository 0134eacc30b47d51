"""From a selector to batches: the sampler, and the loader."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    default_collate,
)

from data_agent.errors import InputError
from data_agent.loading.collating import INDEX_KEY as INDEX_KEY
from data_agent.loading.collating import CollateWithIndex
from data_agent.loading.indexed import IndexedDataset, IndexedStream
from data_agent.runtime import distributed
from data_agent.selecting.batch_selector import BatchSelector
from data_agent.selecting.epoch import delivery_places
from data_agent.selecting.selector import Selector

_REFUSED = {
    "shuffle": "the selector shuffles: each epoch's order is drawn from its seed",
    "sampler": "the selector decides which samples are visited",
    "batch_sampler": "the selector decides which samples are visited; pass batch_size",
}


class SelectionSampler(DistributedSampler[int]):
    """The running epoch's samples, shuffled by (seed, epoch), as indices.

    Its length is one and the same all through a run of the exact schedule. `iter()` changes no
    state: before the first epoch begins it is a preview of epoch 0. It deals the epoch to ranks
    itself, which makes it one of torch's distributed samplers (Lightning wraps any other).

    Args:
        selector: the method; its running epoch is what is iterated.
        batch_size: samples a step on each rank; None where it is not known.
        rank: this process among those that share the epoch. None: every rank goes through the
            whole epoch, and a framework deals its batches to them (Accelerate, Trainer).
        world: how many ranks share the epoch.
        drop_last: leave out a last batch that is not full.
        skip_observed: after a restore begin behind what was observed; False where the framework
            skips batches itself.
    """

    def __init__(
        self,
        selector: Selector,
        *,
        batch_size: int | None = None,
        rank: int | None = 0,
        world: int = 1,
        drop_last: bool = False,
        skip_observed: bool = True,
    ) -> None:
        _check_selector(selector)
        if rank is not None and not 0 <= rank < world:
            raise InputError(f"rank {rank} does not exist among {world}.")
        if batch_size is not None:
            selector.use_loader(batch_size, world=world, drop_last=drop_last)
        elif world > 1 or drop_last:
            raise InputError("sharing an epoch among ranks, and drop_last, need batch_size=.")
        self.selector = selector
        self._batch_size = batch_size
        self._rank = rank
        self._world = world
        self._skip_observed = skip_observed

    def __len__(self) -> int:
        schedule, epoch = self.selector.schedule, self._epoch()
        size = schedule.epoch_size(epoch)
        if self.selector.epoch is not None or schedule.kind == "floating":
            size = self._end(len(self.selector.select(epoch)), epoch)
        return size if self._rank is None else schedule.rank_size(size, self._rank)

    def __iter__(self) -> Iterator[int]:
        epoch = self._epoch()
        selection = self.selector.select(epoch)
        places = delivery_places(selection, self.selector.seed, epoch)
        observed = self.selector.observed_before(epoch) if self._skip_observed else None
        if observed is None:
            done, places = 0, places[: self._end(len(places), epoch)]
        else:
            places = places[~observed[places]]
            done = len(selection) - len(places)
            places = places[: self.selector.schedule.loadable(len(places))]
        rest = selection.index[places]
        return self._deliver(self._share(rest).tolist(), epoch, done)

    def set_epoch(self, epoch: int) -> None:
        """Begin `epoch`; frameworks that count epochs call this."""
        self.selector.set_epoch(epoch)

    def _epoch(self) -> int:
        return 0 if self.selector.epoch is None else self.selector.epoch

    def _end(self, size: int, epoch: int) -> int:
        """Where an order of `size` samples ends: short of it where no batches hold its rest.

        Only where an epoch goes on on other ranks than it began on: all others fit.
        """
        done = self.selector.position(epoch)
        return done + self.selector.schedule.loadable(size - done)

    def _share(self, order: Tensor) -> Tensor:
        """This rank's part: its batch of each round, then its part of the last, smaller round."""
        if self._rank is None or self._batch_size is None:
            return order
        round_size = self._batch_size * self._world
        num_full = len(order) // round_size
        full = order[: num_full * round_size].view(num_full, self._world, self._batch_size)
        rest = order[num_full * round_size :].tensor_split(self._world)[self._rank]
        return torch.cat([full[:, self._rank].flatten(), rest])

    def _deliver(self, share: list[int], epoch: int, done: int) -> Iterator[int]:
        own = done // self._world  # of what was observed before, this rank's part
        dealt_to = self._world if self._rank is None else 1
        for count, index in enumerate(share, start=1):
            self.selector.note_delivered(
                epoch, own + count // dealt_to, is_dealt=self._rank is None
            )
            yield index


class SelectionLoader(DataLoader[Any]):
    """A `DataLoader` that tells the selector of its sampler which batches the loop gets.

    So a batch that was given out and not learned from is told from one that workers have read
    ahead, and an index that the loop has turned around is noticed.
    """

    def __iter__(self) -> Any:
        batches = super().__iter__()
        sampler = cast("object", self.sampler)
        return (
            self._given_out(batches, sampler) if isinstance(sampler, SelectionSampler) else batches
        )

    def _given_out(self, batches: Any, sampler: SelectionSampler) -> Iterator[Any]:
        for batch in batches:
            index = _index_of(batch)
            if index is not None and (epoch := sampler.selector.epoch) is not None:
                sampler.selector.note_given_out(epoch, index)
            yield batch


def _index_of(batch: Any) -> Tensor | None:
    """The index that a batch carries, on the host; None where a function took it out."""
    if isinstance(batch, Mapping):
        index = cast("Mapping[str, Any]", batch).get(INDEX_KEY)
    else:
        index = batch[-1] if isinstance(batch, list | tuple) and batch else None
    if not isinstance(index, Tensor) or index.dtype != torch.int64 or index.ndim != 1:
        return None
    return index.cpu()


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
            selection, or a loader whose sampling cannot be replaced.
    """
    for name, reason in _REFUSED.items():
        if options.get(name) not in (None, False):
            raise InputError(f"{name}= cannot be combined with a selection: {reason}.")
        options.pop(name, None)
    if isinstance(data, DataLoader):
        loader = cast("DataLoader[Any]", data)
        settings = loader_settings(loader)
        data = loader.dataset
        batch_size = settings.pop("batch_size") if batch_size is None else batch_size
        drop_last = settings.pop("drop_last") if drop_last is None else drop_last
        options = {**settings, **options}
    options.pop("batch_size", None)
    options.pop("drop_last", None)
    _check_selector(selector)
    batch_size = 1 if batch_size is None else batch_size
    if isinstance(data, IterableDataset) and isinstance(selector, BatchSelector):
        stream = cast("IterableDataset[Any]", data)
        return _stream_loader(stream, selector, batch_size, bool(drop_last), options)
    dataset = _indexed(data, options)
    if len(dataset) != selector.schedule.num_samples:
        raise InputError(
            f"the dataset has {len(dataset)} samples, but the selector was built for num_samples="
            f"{selector.schedule.num_samples}. Use num_samples=len(dataset)."
        )
    sampler = SelectionSampler(
        selector,
        batch_size=batch_size,
        rank=distributed.rank(),
        world=distributed.world_size(),
        drop_last=bool(drop_last),
    )
    return SelectionLoader(
        dataset, batch_size=batch_size, drop_last=bool(drop_last), sampler=sampler, **options
    )


def _indexed(data: Any, options: dict[str, Any]) -> IndexedDataset:
    """The dataset with indices; a collate function of one's own, in `options`, never sees them."""
    if isinstance(data, IndexedDataset):  # its samples and its collate function carry the index
        return data
    return IndexedDataset(data, as_pairs=_hide_index(options))


def _hide_index(options: dict[str, Any]) -> bool:
    """Whether a collate function of one's own must be given samples without their index."""
    collate_fn = options.get("collate_fn")
    if collate_fn is None or collate_fn is default_collate:
        return False
    options["collate_fn"] = CollateWithIndex(collate_fn)
    return True


def _stream_loader(
    stream: IterableDataset[Any],
    selector: BatchSelector,
    batch_size: int,
    drop_last: bool,
    options: dict[str, Any],
) -> DataLoader[Any]:
    rank, world = distributed.rank(), distributed.world_size()
    num_samples, epochs = selector.schedule.num_samples, selector.schedule.epochs
    if num_samples % (batch_size * world):
        fitting = max(1, num_samples // (batch_size * world)) * batch_size * world
        raise InputError(
            f"num_samples={num_samples} of a stream must be whole pools on each rank, that is a "
            f"multiple of {batch_size * world}. Use for example {fitting}."
        )
    if options.get("persistent_workers") and epochs > 1:
        raise InputError(
            "persistent_workers=True keeps copies of the stream that know nothing of a restore; "
            "with more than one epoch leave it off."
        )
    selector.use_loader(batch_size, world=world, drop_last=drop_last)
    as_pairs = _hide_index(options)
    dataset = IndexedStream(
        stream, selector, batch_size=batch_size, rank=rank, world=world, as_pairs=as_pairs
    )
    return DataLoader(dataset, batch_size=batch_size, drop_last=drop_last, **options)


def _check_selector(selector: object) -> None:
    if not isinstance(selector, Selector):
        raise InputError(
            f"a selector is needed (DataAgent(...), make_selector(...)), got {selector!r}."
        )


def loader_settings(loader: DataLoader[Any]) -> dict[str, Any]:
    """The arguments that `loader` was built with, less those that a selection replaces."""
    replaceable = (RandomSampler, SequentialSampler, DistributedSampler, SelectionSampler)
    sampler = cast("object", loader.sampler)
    if type(sampler) not in replaceable or loader.batch_size is None:
        kept = type(sampler).__name__ if loader.batch_size else "a batch_sampler"
        raise InputError(
            f"the loader samples by {kept}, which a selection would silently replace. Pass the "
            "dataset itself, or a loader with shuffle=True or False."
        )
    if isinstance(sampler, RandomSampler) and (
        sampler.replacement or sampler.num_samples != len(cast("Sequence[Any]", loader.dataset))
    ):
        raise InputError(
            "the loader draws with replacement or a number of samples of its own; a selection "
            "visits distinct samples and has its own budget. Pass the dataset itself."
        )
    names = inspect.signature(DataLoader.__init__).parameters
    skipped = {"self", "dataset", *_REFUSED}
    settings = {n: getattr(loader, n) for n in names if n not in skipped and hasattr(loader, n)}
    if loader.num_workers == 0:
        settings.pop("prefetch_factor", None)
    return settings
