"""From a selector to batches: the dataset that tells its index, the sampler, the loader."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence, Sized
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    default_collate,
)

from data_agent import _distributed
from data_agent._epoch import delivery_order
from data_agent._errors import InputError
from data_agent._selector import Selector

INDEX_KEY = "sample_index"

_REFUSED = {
    "shuffle": "the selector shuffles: each epoch's order is drawn from its seed",
    "sampler": "the selector decides which samples are visited",
    "batch_sampler": "the selector decides which samples are visited; pass batch_size",
}


class IndexedSample(NamedTuple):
    """A sample that is neither a sequence nor a mapping, with its index."""

    sample: Any
    index: Any


class IndexedDataset(Dataset[Any]):
    """A map-style dataset whose samples carry their own index, whoever loads them.

    Tuples and lists get it as a further last element (named tuples become plain ones), mappings
    under the key "sample_index", anything else becomes the pair (sample, index).

    Args:
        dataset: has `__getitem__` and `__len__`; `__getitems__` is used where it exists.
        as_pairs: make every sample the pair `IndexedSample(sample, index)`, itself unchanged.

    Raises:
        InputError: not a map-style dataset.
    """

    def __init__(self, dataset: Any, *, as_pairs: bool = False) -> None:
        if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__"):
            raise InputError(
                f"{type(dataset).__name__} is not a map-style dataset: samples are selected by "
                "their position, so dataset[i] and len(dataset) are needed. Streams without "
                "positions cannot be selected from across epochs."
            )
        if not isinstance(dataset, Sized):
            raise InputError(f"{type(dataset).__name__} has no length; len(dataset) is needed.")
        self.dataset: Any = dataset
        self._with_index = IndexedSample if as_pairs else with_index

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        return self._with_index(self.dataset[index], index)

    def __getitems__(self, indices: list[int]) -> list[Any]:
        fetch = getattr(self.dataset, "__getitems__", None)
        samples = fetch(indices) if fetch else [self.dataset[index] for index in indices]
        return [self._with_index(sample, i) for sample, i in zip(samples, indices, strict=True)]


def with_index(sample: Any, index: Any) -> Any:
    """`sample` with its index added, as `IndexedDataset` describes."""
    if isinstance(sample, Mapping):
        if INDEX_KEY in sample:
            raise InputError(f"the samples have a {INDEX_KEY!r} of their own; rename that field.")
        return {**sample, INDEX_KEY: index}
    if isinstance(sample, list):
        return [*cast("list[Any]", sample), index]
    if isinstance(sample, tuple):
        return (*cast("tuple[Any, ...]", sample), index)
    return IndexedSample(sample, index)


class CollateWithIndex:
    """Calls a collate function of one's own with the plain samples and adds the index to its batch.

    Args:
        collate_fn: list of samples -> batch (a mapping, list, tuple or tensor).
    """

    def __init__(self, collate_fn: Callable[[list[Any]], Any]) -> None:
        self.collate_fn = collate_fn

    def __call__(self, samples: list[IndexedSample]) -> Any:
        """The batch, with the int64 `[B]` index as last element or under "sample_index"."""
        batch = self.collate_fn([sample for sample, _ in samples])
        index = torch.tensor([index for _, index in samples], dtype=torch.int64)
        if isinstance(batch, MutableMapping):  # of its own type, such as BatchEncoding
            batch[INDEX_KEY] = index
            return cast("Any", batch)
        if not isinstance(batch, Mapping | list | tuple | Tensor):
            raise InputError(
                f"the collate function returned {type(batch).__name__}; the index can ride in a "
                "mapping, list, tuple or beside a tensor. Pass IndexedDataset(dataset) instead of "
                "the dataset: your collate function then gets the index and carries it itself."
            )
        return with_index(batch, index)


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
        size = self.selector.schedule.epoch_size(self._epoch())
        if self.selector.schedule.kind == "floating":
            size = len(self.selector.select(self._epoch()))
        return size if self._rank is None else self.selector.schedule.rank_size(size, self._rank)

    def __iter__(self) -> Iterator[int]:
        epoch = self._epoch()
        order = delivery_order(self.selector.select(epoch), self.selector.seed, epoch)
        done = self.selector.position(epoch) if self._skip_observed else 0
        return self._deliver(self._share(order[done:]).tolist(), epoch, done)

    def set_epoch(self, epoch: int) -> None:
        """Begin `epoch`; frameworks that count epochs call this."""
        self.selector.set_epoch(epoch)

    def _epoch(self) -> int:
        return 0 if self.selector.epoch is None else self.selector.epoch

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
            self.selector.note_delivered(epoch, own + count // dealt_to)
            yield index


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
        data: a map-style dataset, or a `DataLoader` whose settings are kept.
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
        settings = _settings(loader)
        data = loader.dataset
        batch_size = settings.pop("batch_size") if batch_size is None else batch_size
        drop_last = settings.pop("drop_last") if drop_last is None else drop_last
        options = {**settings, **options}
    options.pop("batch_size", None)
    options.pop("drop_last", None)
    _check_selector(selector)
    collate_fn = options.get("collate_fn")
    if isinstance(data, IndexedDataset):  # its samples and its collate function carry the index
        dataset = data
    elif collate_fn is None or collate_fn is default_collate:
        dataset = IndexedDataset(data)
    else:
        dataset = IndexedDataset(data, as_pairs=True)
        options["collate_fn"] = CollateWithIndex(collate_fn)
    if len(dataset) != selector.schedule.num_samples:
        raise InputError(
            f"the dataset has {len(dataset)} samples, but the selector was built for num_samples="
            f"{selector.schedule.num_samples}. Use num_samples=len(dataset)."
        )
    sampler = SelectionSampler(
        selector,
        batch_size=1 if batch_size is None else batch_size,
        rank=_distributed.rank(),
        world=_distributed.world_size(),
        drop_last=bool(drop_last),
    )
    return DataLoader(
        dataset,
        batch_size=1 if batch_size is None else batch_size,
        drop_last=bool(drop_last),
        sampler=sampler,
        **options,
    )


def _check_selector(selector: object) -> None:
    if not isinstance(selector, Selector):
        raise InputError(
            f"a selector is needed (DataAgent(...), make_selector(...)), got {selector!r}."
        )


def _settings(loader: DataLoader[Any]) -> dict[str, Any]:
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
