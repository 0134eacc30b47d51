"""From a selector to batches: the order of an epoch, what cuts it, and what tells of batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sized
from itertools import islice
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler

from data_agent.budget.rounds import LastRounds
from data_agent.errors import InputError
from data_agent.loading.collating import INDEX_KEY
from data_agent.loading.indexed import check_length
from data_agent.selecting.epoch import delivery_places
from data_agent.selecting.selector import Selector
from data_agent.selecting.sharding import check_rank


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
        data: the dataset, whose length is checked each time: worker processes may hold old copies.
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
        data: Sized | None = None,
    ) -> None:
        check_selector(selector)
        if rank is not None and not 0 <= rank < world:
            raise InputError(f"rank {rank} does not exist among {world}.")
        if batch_size is not None:
            if last_rounds is None and selector.schedule.batch_size is not None:
                last_rounds = selector.schedule.last_rounds
            elif last_rounds is None:
                last_rounds = "filled" if rank is None and world > 1 else "cut"
            selector.use_loader(
                batch_size, world=world, drop_last=drop_last, last_rounds=last_rounds
            )
        elif world > 1 or drop_last:
            raise InputError("sharing an epoch among ranks, and drop_last, need batch_size=.")
        if selector.own.shard.is_part:
            check_rank(selector.own.shard, rank)
            rank, world = 0, 1  # the epoch is this rank's alone
        self.selector = selector
        self._batch_size = batch_size
        self._rank = rank
        self._world = world
        self._skip_observed = skip_observed
        self._data = data

    def __len__(self) -> int:
        size = self._size()
        return size if self._rank is None else self.selector.own.rank_size(size, self._rank)

    def __iter__(self) -> Iterator[int]:
        order, epoch, done = self._begin()
        indices = self._deliver(order, epoch, done)
        return indices if self._rank is None else self._noted(indices, epoch)

    def _noted(self, indices: Iterator[int], epoch: int) -> Iterator[int]:
        """The indices, which a loader that is not ours takes in batches as they are."""
        while batch := [*islice(indices, self._batch_size or 1)]:
            self.selector.note_given_out(epoch, torch.tensor(batch))
            yield from batch

    def batches(self) -> Iterator[list[int]]:
        """The same indices in batches, of which the last ones may be smaller."""
        order, epoch, done = self._begin()
        indices = self._deliver(order, epoch, done)
        for size in self.selector.own.batch_sizes(len(order), self._rank or 0):
            yield [*islice(indices, size)]

    @property
    def num_batches(self) -> int:
        """Batches of the epoch on each rank, those before a restore counted."""
        size = self._size()
        return self.selector.own.batches_in(size, size)[0]

    def set_epoch(self, epoch: int) -> None:
        """Begin `epoch`; frameworks that count epochs call this."""
        self.selector.set_epoch(epoch)

    def _epoch(self) -> int:
        return 0 if self.selector.epoch is None else self.selector.epoch

    def _size(self) -> int:
        """Samples of the epoch, over all ranks."""
        schedule, epoch = self.selector.own, self._epoch()
        if self.selector.epoch is None and schedule.kind != "floating":
            return schedule.epoch_size(epoch)
        return self._end(len(self.selector.select(epoch)), epoch)

    def _begin(self) -> tuple[Tensor, int, int]:
        """The order that a loader begins: no forward before it belongs to its batches."""
        if self._data is not None:
            check_length(self._data, self.selector.schedule.num_samples)
        self.selector.forget_forward()
        return self._order(self._skip_observed)

    def _order(self, skip_observed: bool) -> tuple[Tensor, int, int]:
        """What is to be delivered over all ranks, of which epoch, and how much was before."""
        selector, epoch = self.selector, self._epoch()
        selection = selector.select(epoch)
        places = delivery_places(selection, selector.order_seed, epoch, selector.first_of(epoch))
        observed = selector.observed_before(epoch) if skip_observed else None
        if observed is None:
            return selection.index[places[: self._end(len(places), epoch)]], epoch, 0
        places = places[~observed[places]]
        order = selection.index[places[: selector.own.loadable(len(places))]]
        return order, epoch, len(selection) - len(places)

    def _end(self, size: int, epoch: int) -> int:
        """Where an order of `size` samples ends: short of it where no batches hold its rest.

        Only where an epoch goes on on other ranks than it began on: all others fit.
        """
        done = self.selector.position(epoch)
        return done + self.selector.own.loadable(size - done)

    def _share(self, order: Tensor) -> Tensor:
        """This rank's part: its batch of each round, then its part of the smaller last ones."""
        if self._rank is None or self._batch_size is None:
            return order
        num_full, last = self.selector.own.rounds(len(order))
        num_in_full = num_full * self._batch_size * self._world
        full = order[:num_in_full].view(num_full, self._world, self._batch_size)
        parts = [
            part.tensor_split(self._world)[self._rank] for part in order[num_in_full:].split(last)
        ]
        return torch.cat([full[:, self._rank].flatten(), *parts])

    def _deliver(self, order: Tensor, epoch: int, done: int) -> Iterator[int]:
        is_dealt = self._rank is None
        own = done // self._world  # of what was observed before, this rank's part
        dealt_to = self._world if is_dealt else 1
        for count, index in enumerate(self._share(order).tolist(), start=1):
            self.selector.note_delivered(epoch, own + count // dealt_to, is_dealt=is_dealt)
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

    def __iter__(self) -> Any:
        batches, sampler = super().__iter__(), cast("object", self.sampler)
        if not isinstance(sampler, SelectionSampler):
            return batches
        return given_out(sampler.selector, batches)


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


def check_selector(selector: object) -> None:
    """Refuse what is none."""
    if not isinstance(selector, Selector):
        raise InputError(
            f"a selector is needed (DataAgent(...), make_selector(...)), got {selector!r}."
        )


def given_out(selector: Selector, batches: Iterator[Any]) -> Iterator[Any]:
    """A loader's batches, of each of which the selector knows when the loop gets it.

    Not of one whose index a function of the user's took out.
    """
    for batch in batches:
        if isinstance(batch, Mapping):
            index = cast("Mapping[str, Any]", batch).get(INDEX_KEY)
        else:
            index = batch[-1] if isinstance(batch, list | tuple) and batch else None
        if isinstance(index, Tensor) and index.dtype == torch.int64 and index.ndim == 1:
            selector.note_given_out(selector.epoch or 0, index.cpu())
        yield cast("Any", batch)
