"""Where a run stands: its epochs and visits, counted for loops, loaders and frameworks."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from data_agent.budget.rounds import LastRounds
from data_agent.budget.schedule import SelectionSchedule
from data_agent.errors import InputError, StateError
from data_agent.runtime import distributed
from data_agent.selecting.epoch import RunningEpoch, warn
from data_agent.selecting.sharding import check_loader

logger = logging.getLogger("data_agent")


class NextBatch(NamedTuple):
    """Where training goes on.

    Args:
        epoch: in [0, E]; E once all epochs are done.
        batch: batches of it that were observed; on several ranks, rounds of one batch a rank.
        is_whole: False where the last of them was observed only in part.
    """

    epoch: int
    batch: int
    is_whole: bool


class CountsEpochs:
    """The part of a selector that counts; a subclass begins the epochs.

    A plain loop needs `epochs()` alone. A framework with a loop of its own calls `set_epoch` when
    an epoch begins, and what else of the methods below fits its events.
    """

    def __init__(self, schedule: SelectionSchedule) -> None:
        self.schedule = schedule
        self.own = schedule
        """What of the schedule falls to this rank, where ranks share the tables; else all of it."""
        self._running: RunningEpoch | None = None
        self._visits = 0
        self._visits_before = 0
        self._epoch_shift = 0
        self._just_restored = False
        self._is_counting = False

    def begin_epoch(self, epoch: int) -> None:
        """Begin `epoch`, or go on with it."""
        raise NotImplementedError

    # Readings.

    @property
    def visits(self) -> int:
        """Samples observed so far, each visit counted; other ranks are taken to keep step."""
        return self._visits_before + self._visits * self.schedule.world

    @property
    def epoch(self) -> int | None:
        """The epoch that has begun, or None."""
        return None if self._running is None else self._running.epoch

    @property
    def num_observed(self) -> int:
        """Samples of the running epoch that were observed on this rank."""
        return 0 if self._running is None else self._running.num_observed

    @distributed.together("next_batch()")
    def next_batch(self) -> NextBatch:
        """Where training goes on, by what was observed; on several ranks a collective call."""
        epoch, schedule = self._next_epoch(), self.own
        if (running := self._in(epoch)) is None:
            return NextBatch(epoch, 0, is_whole=True)
        return NextBatch(
            epoch, *schedule.batches_in(running.position(schedule), running.size(schedule))
        )

    # Epochs.

    def epochs(self) -> Iterator[int]:
        """Begin each epoch still to do and yield its number; after a restore, from there on.

        On several ranks every rank calls it.
        """
        first = self._next_epoch()
        if self._running is not None and first == self._running.epoch:
            self._running.resume_here(self.own)
        if first == self.schedule.epochs:
            warn(f"all {first} epochs are done; for another training run build a new selector.")
        self._is_counting = True
        try:
            for epoch in range(first, self.schedule.epochs):
                self.begin_epoch(epoch)
                yield epoch
        finally:
            self._is_counting = False
        self.close_epoch()

    def set_epoch(self, epoch: int) -> None:
        """`begin_epoch` for frameworks that count epochs themselves.

        The first call after a restore may start again from 0: it and all later ones are then
        shifted by the difference. Inside a loop over `epochs()` it does nothing: the loop counts.
        """
        if self._is_counting:
            return
        if self._just_restored:
            self._just_restored = False
            due = self._next_epoch()
            if epoch < due:
                self._epoch_shift = due - epoch
                logger.info("set_epoch(%d) after a restore: counting on from %d.", epoch, due)
        self.begin_epoch(epoch + self._epoch_shift)

    def shift_epochs(self, by: int) -> None:
        """Let `set_epoch(e)` mean epoch `e + by` from now on, the first call after a restore too.

        For frameworks that count epochs through after a restore. A new shift replaces the last one.
        """
        self._just_restored = False
        self._epoch_shift = by

    def close_epoch(self) -> None:
        """Check that the last epoch was observed, as `begin_epoch` does; a collective call.

        Raises:
            StateError: batches were delivered and none was observed, or they were shared twice.
        """
        if self._running is not None:
            with distributed.together("close_epoch()"), distributed.failing_together():
                self._running.check_observed(self.own)

    # Batches.

    def uncount(self, num_samples: int) -> None:
        """Take back the last samples that this rank observed, whose training step was cut short.

        What was learned from them stays. A state that is saved now goes on before them.

        Raises:
            InputError: fewer were observed since the epoch began or went on.
        """
        running = self._running
        most = 0 if running is None else running.num_observed - running.observed_before
        if not 0 <= num_samples <= most:
            raise InputError(
                f"{num_samples} samples cannot be taken back: {most} of the running epoch were "
                "observed on this rank since it began or was restored."
            )
        if running is not None:
            running.num_observed -= num_samples
            running.observed.unmark(num_samples)
            self._visits -= num_samples

    def note_delivered(self, epoch: int, count: int, *, is_dealt: bool = False) -> None:
        """Tell that a loader has taken `count` samples of `epoch` on this rank so far.

        `is_dealt`: a framework deals the epoch to ranks, and may fill its last round.
        """
        if running := self._in(epoch):
            running.note_delivered(count, is_dealt=is_dealt)

    def note_given_out(self, epoch: int, index: Tensor) -> None:
        """Tell that the loop gets the batch `index` (int64 `[B]`) of `epoch` on this rank."""
        if running := self._in(epoch):
            running.observed.give_out(index)

    def first_of(self, epoch: int) -> Tensor | None:
        """int64 `[F]`: the samples of `epoch` that are delivered first, in this order."""
        running = self._in(epoch)
        return running and running.first

    def observed_before(self, epoch: int) -> Tensor | None:
        """Bool `[K]`: of the samples of `epoch`, ascending, those observed before a restore."""
        running = self._in(epoch)
        return running and running.done

    def position(self, epoch: int) -> int:
        """Samples of the order of `epoch`, over all ranks, that were observed before a restore."""
        running = self._in(epoch)
        return running.resume_at if running else 0

    # Loaders.

    def use_loader(
        self,
        batch_size: int,
        *,
        world: int = 1,
        drop_last: bool = False,
        last_rounds: LastRounds = "spread",
    ) -> None:
        """Fit the budget to a loader's batches; called by the sampler, before the first epoch.

        Raises:
            StateError: an epoch has begun with other batches.
            InputError: an epoch would be empty.
        """
        schedule = self.schedule.for_loader(
            batch_size, world=world, drop_last=drop_last, last_rounds=last_rounds
        )
        if schedule == self.schedule:
            return
        is_second = self.schedule.batch_size is not None
        own = schedule.for_shard(self.own.shard)
        if self._running is not None and (is_second or own.num_kept != self.own.num_kept):
            raise StateError(
                f"a loader with batches of {batch_size} on {world} rank(s) (drop_last={drop_last}) "
                "would change the running epoch. Build the loader before the first epoch begins, "
                "and before a state is loaded, and no second one with other batches."
            )
        check_loader(self.own.shard, world)
        self.schedule = schedule
        self._compose()

    def uniform_rows(self, index: Tensor) -> Tensor:
        """Bool `[B]`: which of these samples of the running epoch the method did not choose."""
        uniform, places = self._open_epoch().uniform, self.own.shard.places(index)
        return torch.ones(len(index), dtype=torch.bool) if uniform is None else uniform[places]

    # For subclasses.

    def _compose(self) -> None:
        """Take over a schedule that has changed."""
        raise NotImplementedError

    def _in(self, epoch: int) -> RunningEpoch | None:
        """The running epoch, if it is `epoch`."""
        running = self._running
        return running if running is not None and running.epoch == epoch else None

    @distributed.together("epochs()")
    def _next_epoch(self) -> int:
        """The running epoch, or the one after it where all was observed; a collective call."""
        running = self._running
        if running is None:
            return 0
        return running.epoch + int(running.is_over(self.own))

    def _total_visits(self) -> int:
        """Visits of all ranks, exactly; a collective call."""
        return self._visits_before + distributed.total(self._visits)

    def _open_epoch(self) -> RunningEpoch:
        if self._running is None:
            raise StateError(
                "no epoch has begun, so there is nothing to learn from: loop over "
                "`for epoch in agent.epochs():` around your batches, or call agent.set_epoch()."
            )
        return self._running
