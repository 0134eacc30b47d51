"""From a selector to batches: the sampler, and the loader."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, ClassVar, cast

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, IterableDataset

from data_agent.budget.rounds import LastRounds
from data_agent.errors import InputError
from data_agent.loading.collating import INDEX_KEY as INDEX_KEY
from data_agent.loading.indexed import IndexedStream
from data_agent.loading.settings import LoaderSettings, settings_of
from data_agent.runtime import distributed
from data_agent.selecting.batch_selector import BatchSelector
from data_agent.selecting.epoch import delivery_places
from data_agent.selecting.selector import Selector


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
        last_rounds: what becomes of a rest that fills no batch on each rank, see `LastRounds`.
            None: as the selector's loader has it, or "cut", as a `DataLoader` does with indices;
            "filled" where a framework deals the batches to several ranks.
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
        last_rounds: LastRounds | None = None,
    ) -> None:
        _check_selector(selector)
        if rank is not None and not 0 <= rank < world:
            raise InputError(f"rank {rank} does not exist among {world}.")
        if batch_size is not None:
            if last_rounds is None:
                is_dealt = rank is None and world > 1
                has_loader = selector.schedule.batch_size is not None
                default = "filled" if is_dealt else "cut"
                last_rounds = selector.schedule.last_rounds if has_loader else default
            selector.use_loader(
                batch_size, world=world, drop_last=drop_last, last_rounds=last_rounds
            )
        elif world > 1 or drop_last:
            raise InputError("sharing an epoch among ranks, and drop_last, need batch_size=.")
        self.selector = selector
        self._batch_size = batch_size
        self._rank = rank
        self._world = world
        self._skip_observed = skip_observed

    def __len__(self) -> int:
        size = self._size(self._epoch())
        return size if self._rank is None else self.selector.schedule.rank_size(size, self._rank)

    def __iter__(self) -> Iterator[int]:
        epoch = self._epoch()
        rest, done = self._rest(epoch)
        return self._deliver(self._share(rest).tolist(), epoch, done)

    def batches(self) -> Iterator[list[int]]:
        """The same indices in batches, of which the last ones may be smaller."""
        epoch = self._epoch()
        rest, done = self._rest(epoch)
        indices = self._deliver(self._share(rest).tolist(), epoch, done)
        for size in self.selector.schedule.batch_sizes(len(rest), self._rank or 0):
            yield [*islice(indices, size)]

    @property
    def num_batches(self) -> int:
        """Batches of the epoch on each rank, those before a restore counted."""
        schedule, epoch = self.selector.schedule, self._epoch()
        size = self._size(epoch)
        return schedule.batches_in(size, size)[0]

    def set_epoch(self, epoch: int) -> None:
        """Begin `epoch`; frameworks that count epochs call this."""
        self.selector.set_epoch(epoch)

    def _epoch(self) -> int:
        return 0 if self.selector.epoch is None else self.selector.epoch

    def _size(self, epoch: int) -> int:
        """Samples of the epoch, over all ranks."""
        schedule = self.selector.schedule
        if self.selector.epoch is None and schedule.kind != "floating":
            return schedule.epoch_size(epoch)
        return self._end(len(self.selector.select(epoch)), epoch)

    def _rest(self, epoch: int) -> tuple[Tensor, int]:
        """What is to be delivered over all ranks, in order, and how many samples that leaves out.

        These were observed before a restore.
        """
        selection = self.selector.select(epoch)
        places = delivery_places(
            selection, self.selector.seed, epoch, self.selector.first_of(epoch)
        )
        observed = self.selector.observed_before(epoch) if self._skip_observed else None
        if observed is None:
            return selection.index[places[: self._end(len(places), epoch)]], 0
        places = places[~observed[places]]
        left = self.selector.schedule.loadable(len(places))
        return selection.index[places[:left]], len(selection) - len(places)

    def _end(self, size: int, epoch: int) -> int:
        """Where an order of `size` samples ends: short of it where no batches hold its rest.

        Only where an epoch goes on on other ranks than it began on: all others fit.
        """
        done = self.selector.position(epoch)
        return done + self.selector.schedule.loadable(size - done)

    def _share(self, order: Tensor) -> Tensor:
        """This rank's part: its batch of each round, then its part of the smaller last ones."""
        if self._rank is None or self._batch_size is None:
            return order
        num_full, last = self.selector.schedule.rounds(len(order))
        num_in_full = num_full * self._batch_size * self._world
        full = order[:num_in_full].view(num_full, self._world, self._batch_size)
        parts = [
            part.tensor_split(self._world)[self._rank] for part in order[num_in_full:].split(last)
        ]
        return torch.cat([full[:, self._rank].flatten(), *parts])

    def _deliver(self, share: list[int], epoch: int, done: int) -> Iterator[int]:
        own = done // self._world  # of what was observed before, this rank's part
        dealt_to = self._world if self._rank is None else 1
        for count, index in enumerate(share, start=1):
            self.selector.note_delivered(
                epoch, own + count // dealt_to, is_dealt=self._rank is None
            )
            yield index


class SelectionBatches(BatchSampler):
    """A selection's batches: full ones, and last ones that share what does not fill them.

    Built like torch's, with any sampler: frameworks build it again with one of their own before
    they can be told that a selection is lost by it (Lightning's `overfit_batches`).
    """

    def __iter__(self) -> Iterator[list[int]]:
        sampler = self.sampler
        return sampler.batches() if isinstance(sampler, SelectionSampler) else super().__iter__()

    def __len__(self) -> int:
        sampler = self.sampler
        return sampler.num_batches if isinstance(sampler, SelectionSampler) else super().__len__()


class SelectionLoader(DataLoader[Any]):
    """A `DataLoader` that tells the selector of its sampler which batches the loop gets.

    So a batch that was given out and not learned from is told from one that workers have read
    ahead, and an index that the loop has turned around is noticed.
    """

    is_selection: ClassVar[bool] = True

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
    settings = settings_of(data, batch_size=batch_size, drop_last=drop_last, options=options)
    _check_selector(selector)
    if isinstance(settings.data, IterableDataset) and isinstance(selector, BatchSelector):
        return _stream_loader(selector, settings)
    dataset = settings.indexed(selector.schedule.num_samples)
    sampler = SelectionSampler(
        selector,
        batch_size=settings.batch_size,
        rank=distributed.rank(),
        world=distributed.world_size(),
        drop_last=settings.drop_last,
        last_rounds="spread",
    )
    loader = SelectionLoader(dataset, sampler=sampler, **settings.arguments())
    use_selection_batches(loader)
    return loader


def use_selection_batches(loader: DataLoader[Any]) -> None:
    """Let a new loader over a `SelectionSampler` take its batches from there.

    A loader that Accelerate prepared takes them from a second one, which it holds. A loader over
    another sampler is left alone: no epoch will have begun when its first batch is observed.
    """
    cutter = cast("BatchSampler", loader.batch_sampler)
    if not isinstance(getattr(cutter, "sampler", None), SelectionSampler):
        return
    batches = SelectionBatches(cutter.sampler, cutter.batch_size, cutter.drop_last)
    # A DataLoader is built with a sampler or with batches, and frameworks look at either.
    for each in (loader, getattr(loader, "base_dataloader", None)):
        if each is not None:
            vars(each)["batch_sampler"] = batches


def _stream_loader(selector: BatchSelector, settings: LoaderSettings) -> DataLoader[Any]:
    rank, world = distributed.rank(), distributed.world_size()
    batch_size, round_size = settings.batch_size, settings.batch_size * world
    num_samples, epochs = selector.schedule.num_samples, selector.schedule.epochs
    if num_samples % round_size:
        fitting = max(1, num_samples // round_size) * round_size
        raise InputError(
            f"num_samples={num_samples} of a stream must be whole pools on each rank, that is a "
            f"multiple of {round_size}. Use for example {fitting}."
        )
    if settings.options.get("persistent_workers") and epochs > 1:
        raise InputError(
            "persistent_workers=True keeps copies of the stream that know nothing of a restore; "
            "with more than one epoch leave it off."
        )
    selector.use_loader(batch_size, world=world, drop_last=settings.drop_last)
    as_pairs = settings.hide_index()
    dataset = IndexedStream(
        cast("IterableDataset[Any]", settings.data),
        selector,
        batch_size=batch_size,
        rank=rank,
        world=world,
        as_pairs=as_pairs,
    )
    return DataLoader(dataset, **settings.arguments())


def _check_selector(selector: object) -> None:
    if not isinstance(selector, Selector):
        raise InputError(
            f"a selector is needed (DataAgent(...), make_selector(...)), got {selector!r}."
        )
