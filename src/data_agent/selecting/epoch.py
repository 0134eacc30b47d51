"""The epoch that has begun: its selection, its order, and how far it was observed."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from data_agent.budget.composition import Composition
from data_agent.budget.rounds import share_of, start_of
from data_agent.budget.schedule import SelectionSchedule
from data_agent.errors import CheckpointError, DataAgentWarning, StateError
from data_agent.runtime import distributed
from data_agent.runtime.masks import mask_of, packed, places_of, size_of, unpacked
from data_agent.runtime.random import Purpose, permutation
from data_agent.selecting.feedback import Selection, check_range
from data_agent.selecting.observed import OBSERVE_ONCE, Array, Observed

CARRIES_OVER = ("exact", "to-the-end", "uniform")  # schedules where samples can come first
_OF_LOADER = ("batch_size", "world", "last_rounds")
OBSERVED_SHARE = 0.9  # below it a loop forgets to observe some of its batches


def delivery_places(
    selection: Selection, seed: int, epoch: int, first: Tensor | None = None
) -> Tensor:
    """int64 `[K]`: places in the selection of `epoch`, in the order of their delivery.

    `first`, int64 `[F]`, are samples that come before all others, in this order.
    """
    places = permutation(len(selection), seed, Purpose.ORDER, epoch)
    if first is None or not len(first):
        return places
    come_first = torch.searchsorted(selection.index, first)
    is_first = mask_of(come_first, len(places))
    return torch.cat([come_first, places[~is_first[places]]])


@dataclass(slots=True)
class RunningEpoch:
    """Counts samples of one epoch, including duplicates that a framework adds as padding.

    Args:
        epoch: its number.
        selection: its samples, over all ranks.
        uniform: bool `[N]`, the samples that the method did not choose; None for all.
        composed_for: the budget that it was composed for, before it went on on other ranks.
        num_observed: samples observed on this rank.
        num_delivered: samples that a loader took on this rank.
        resume_at: samples of the order that all ranks had observed when the loop last stopped.
        observed_before: those of them that this rank observed.
        is_restored: whether nothing was observed since a restore.
        is_ordered: whether a sampler delivers the epoch in its order; streams have their own.
        is_dealt: whether a framework deals the order to ranks, and may fill the last round.
        displaced: int64 `[D]`, samples whose visit is put off to the next epoch, oldest first.
        first: int64 `[F]`, samples that the epochs before left out, which come first, oldest
            first; None for none.
        done: bool `[K]`, what all ranks had observed when the loop last stopped; None for none.
    """

    epoch: int
    selection: Selection
    uniform: Tensor | None
    composed_for: SelectionSchedule
    num_observed: int = 0
    num_delivered: int = 0
    resume_at: int = 0
    observed_before: int = 0
    is_restored: bool = False
    is_ordered: bool = False
    is_dealt: bool = False
    displaced: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    first: Tensor | None = None
    done: Tensor | None = None
    observed: Observed = field(init=False)

    def __post_init__(self) -> None:
        self.observed = Observed(self.selection, None if self.done is None else self.done.clone())

    def position(self, schedule: SelectionSchedule) -> int:
        """Samples of the order that were observed over all ranks; a collective call."""
        since = self.num_observed - self.observed_before
        if schedule.world > 1:
            since = distributed.total(since)
        return min(self.size(schedule), self.resume_at + since)

    def size(self, schedule: SelectionSchedule) -> int:
        """Samples of all ranks that the loader's batches can hold; fewer after other ranks'."""
        left = len(self.selection) - self.resume_at
        return self.resume_at + schedule.loadable(left)

    def is_over(self, schedule: SelectionSchedule) -> bool:
        """Whether all of it was observed; a collective call."""
        return self.position(schedule) >= self.size(schedule)

    def note_delivered(self, count: int, *, is_dealt: bool = False) -> None:
        """A sampler has taken `count` samples of the order on this rank so far."""
        self.num_delivered = max(self.num_delivered, count)
        self.is_ordered, self.is_dealt = True, is_dealt

    def resume_here(self, schedule: SelectionSchedule) -> None:
        """Let the next loader begin behind what was observed; a collective call."""
        self.resume_at, self.done = self.position(schedule), self.observed_by_all(schedule)
        self.observed_before = self.num_observed

    def observed_by_all(self, schedule: SelectionSchedule) -> Tensor:
        """Bool `[K]`: those of the selection that any rank observed; a collective call."""
        marks = self.observed.marks.clone()
        if schedule.world > 1:
            (places,) = distributed.gather_rows(places_of(marks))
            marks[places] = True
        return marks

    def left_over(self, schedule: SelectionSchedule, seed: int) -> Tensor:
        """int64: what was to be trained on and was not, oldest first; a collective call."""
        is_missed = ~self.observed_by_all(schedule)
        if not is_missed.any():
            return self.displaced
        places = delivery_places(self.selection, seed, self.epoch, self.first)
        num_first = 0 if self.first is None else len(self.first)
        again, now = (
            self.selection.index[part[is_missed[part]]]
            for part in (places[:num_first], places[num_first:])
        )
        return torch.cat([again, self.displaced, now])

    def places(self, index: Tensor, schedule: SelectionSchedule) -> Array:
        """Where the samples of a batch stand in the selection; see `Observed.check`."""
        may_repeat = (schedule.batch_size or 0) if self.is_dealt and schedule.world > 1 else 0
        return self.observed.check(
            index,
            epoch=self.epoch,
            num_samples=schedule.num_samples * schedule.shard.world,  # or a few less
            may_repeat=may_repeat,
        )

    def check_open(self, schedule: SelectionSchedule) -> None:
        """More samples than an epoch has are refused, less those that frameworks repeat."""
        padding = (schedule.batch_size or 1) if schedule.world > 1 else 0
        if self.num_observed >= len(self.selection) // schedule.world + padding:
            raise StateError(
                f"epoch {self.epoch} has {len(self.selection)} samples and all were observed; more "
                "came. Either the next epoch was never begun: loop over agent.epochs(), or call "
                f"agent.set_epoch(epoch) once an epoch. Or batches came more than once: "
                f"{OBSERVE_ONCE}."
            )

    def check_resumed(self, index: Tensor, schedule: SelectionSchedule, seed: int) -> None:
        """The first batch after a restore, int64 `[B]`, must be the first that was not observed."""
        if not (self.is_restored and self.is_ordered and self.resume_at and schedule.batch_size):
            return
        places = delivery_places(self.selection, seed, self.epoch, self.first)
        if self.done is not None:
            done = self.done[places]
            places = torch.cat([places[done], places[~done]])
        order = self.selection.index[places]
        found = (order == index[0]).nonzero()
        if not len(found):
            return
        place, round_size = int(found[0]), schedule.batch_size * schedule.world
        if schedule.world > 1 and len(self.selection) - self.resume_at < round_size:
            return  # a last round that a framework may have filled with samples seen before
        first_round = schedule.next_round(self.size(schedule) - self.resume_at)
        where = (
            f"epoch {self.epoch} was restored behind {self.resume_at} observed samples "
            f"({self.resume_at // round_size} batches), but the first batch that came"
        )
        rank = distributed.rank() if schedule.world > 1 else 0
        start = self.resume_at + start_of(first_round, rank, schedule.world)
        if start <= place < start + share_of(first_round, rank, schedule.world):
            return  # of this rank's batch of the first round; its first rows may be left out
        if place < self.resume_at:
            raise StateError(
                f"{where} was observed before: the loader began the epoch again. Let it go on: "
                "loaders of selection_loader() do so by themselves; a framework that skips batches "
                "must be let to (Trainer: ignore_data_skip=False); a sampler of your own for one "
                "that does not needs skip_observed=True."
            )
        if 2 * self.resume_at <= place < 2 * self.resume_at + round_size:
            raise StateError(
                f"{where} lies {place - self.resume_at} samples further on: batches were skipped "
                "twice, by the loader, which goes on by itself, and by the loop. Remove "
                "skip_first_batches() (or build the sampler with skip_observed=False)."
            )

    def check_next(self, epoch: int, schedule: SelectionSchedule) -> None:
        """Another epoch may begin: a later one, after one that was observed."""
        if epoch < self.epoch:
            raise StateError(
                f"epoch {epoch} cannot begin: epoch {self.epoch} is running and epochs only go "
                "forward. For another training run build a new selector."
            )
        self.check_observed(schedule)

    def check_observed(self, schedule: SelectionSchedule) -> None:
        """A forgotten learn() must not turn the selection off silently."""
        num_missed = self.size(schedule) - size_of(self.observed_by_all(schedule))
        if self.is_restored and self.num_delivered > self.observed_before:
            raise StateError(
                f"epoch {self.epoch} was restored behind {self.resume_at} of its "
                f"{len(self.selection)} samples, the rest was delivered, and not one batch of it "
                "was observed. Were batches skipped twice, by the loader, which goes on by itself, "
                "and by the loop? Remove skip_first_batches()."
            )
        if self._num_given_out() and not self.num_observed:
            raise StateError(
                f"epoch {self.epoch} delivered {self.num_delivered} samples and not one batch was "
                "observed. Call agent.learn(losses, index) for each batch (or "
                "agent.observe(Feedback(...)))."
            )
        if not self.num_delivered and not self.num_observed:
            warn(f"epoch {self.epoch} had no batch: is the loader made for this selector?")
        elif self._forgets(schedule):
            self._complain_of_missed_batches(schedule)
        elif num_missed > 0:
            warn(
                f"{num_missed} of the {len(self.selection)} samples of epoch {self.epoch} were not "
                "trained on: the epoch was left early, or rows of its batches were left out. "
                f"{self._what_becomes(schedule)}"
            )

    def _what_becomes(self, schedule: SelectionSchedule) -> str:
        """Of the samples that were not trained on."""
        if self.epoch + 1 == schedule.epochs:
            return "It was the last one, so its budget is not used up."
        if schedule.kind in CARRIES_OVER:
            return "They come first in the next epoch, the oldest before all others."
        return f"In a {schedule.kind!r} schedule they do not come again for that."

    def _forgets(self, schedule: SelectionSchedule) -> bool:
        """Whether batches came that were not observed; not the one at which a loop breaks off."""
        num_missing = self._num_given_out() - self.num_observed
        if self.observed.num_given_out and num_missing <= (schedule.batch_size or 0):
            return False
        return num_missing > (1 - OBSERVED_SHARE) * self._num_given_out()

    def _num_given_out(self) -> int:
        """Samples that the loop got on this rank, where that is known; else what a sampler gave."""
        since = self.observed.num_given_out
        return self.observed_before + since if since else self.num_delivered

    def _complain_of_missed_batches(self, schedule: SelectionSchedule) -> None:
        num_given_out = self._num_given_out()
        counts = (
            f"in epoch {self.epoch} {num_given_out} samples were delivered, but only "
            f"{self.num_observed} observed"
        )
        share = num_given_out / schedule.world
        if schedule.world > 1 and self.num_observed <= share + (schedule.batch_size or 0):
            raise StateError(
                f"{counts}, one in {schedule.world}: the loader, which deals batches to ranks by "
                "itself, was dealt out again by a framework. Use the selection_loader of "
                "data_agent.integrations, or leave the loader as it is (no accelerator.prepare())."
            )
        warn(f"{counts}. Call agent.learn(losses, index) for every batch.")

    def state_dict(self, schedule: SelectionSchedule) -> dict[str, Any]:
        """Selection and observed samples as one bit each, and the position; a collective call."""
        places, of_loader = schedule.shard.places, self.composed_for.whole or self.composed_for
        return {
            "epoch": self.epoch,
            "position": self.position(schedule),
            **{name: getattr(of_loader, name) for name in _OF_LOADER},
            "selection": packed(mask_of(places(self.selection.index), schedule.num_samples)),
            "observed": packed(self.observed_by_all(schedule)),
            "displaced": places(self.displaced).clone(),
            "first": None if self.first is None else places(self.first).clone(),
            "weights": self.selection.weights,
        }

    @classmethod
    def from_state(
        cls, state: dict[str, Any], schedule: SelectionSchedule, seed: int
    ) -> RunningEpoch:
        """Take over what `state_dict` returned, on any number of ranks."""
        epoch, position = int(state["epoch"]), int(state["position"])
        shard = schedule.shard
        index = shard.samples(places_of(unpacked(state["selection"], schedule.num_samples)))
        loader = {name: state[name] for name in _OF_LOADER}
        composed_for = replace(schedule.whole or schedule, **loader).for_shard(shard)
        _check_saved(state, index, composed_for, schedule)
        first = None if state["first"] is None else _samples(state["first"], schedule)
        if first is not None and _repeats_or_leaves(first, index):
            raise CheckpointError(f"what comes first in epoch {epoch} is not of it.")
        own = position // schedule.world
        running = cls(
            epoch,
            Selection(index, state["weights"]),
            Composition(composed_for, seed).uniform(epoch),
            composed_for,
            num_observed=own,
            num_delivered=own,
            resume_at=position,
            observed_before=own,
            is_restored=True,
            displaced=_samples(state["displaced"], schedule),
            first=first,
            done=unpacked(state["observed"], len(index)),
        )
        if left_out := len(index) - running.size(schedule):
            warn(
                f"epoch {epoch} goes on in batches of {schedule.batch_size} on {schedule.world} "
                f"rank(s), which cannot hold its last {left_out} sample(s): left out."
            )
        return running


def _samples(places: Tensor, schedule: SelectionSchedule) -> Tensor:
    """The samples of a saved state's places, int64 `[M]`."""
    if places.dtype != torch.int64 or places.ndim != 1:
        raise CheckpointError("the samples that were put off are not int64 [M].")
    check_range(places, schedule.num_samples)
    return schedule.shard.samples(places.clone())


def _repeats_or_leaves(samples: Tensor, index: Tensor) -> bool:
    """Whether samples, int64 `[M]`, are not distinct ones of `index`."""
    return not torch.isin(samples, index).all() or len(samples.unique()) < len(samples)


def _check_saved(
    state: dict[str, Any],
    index: Tensor,
    composed_for: SelectionSchedule,
    schedule: SelectionSchedule,
) -> None:
    """What was saved of an epoch with the samples `index` can be gone on with; else an error."""
    epoch, position = int(state["epoch"]), int(state["position"])
    weights, is_part = state["weights"], schedule.shard.is_part
    more = len(index) - composed_for.epoch_size(epoch)
    is_over = position == len(index)
    is_dealt_anew = is_over and is_part  # by `reshard`: how many fell to this rank is chance
    if (more > 0 or (more < 0 and schedule.kind != "floating")) and not is_dealt_anew:
        raise CheckpointError(f"its selection of epoch {epoch} holds {len(index)} samples.")
    if is_part and not is_over and composed_for != schedule:
        raise CheckpointError(
            f"it is in the middle of epoch {epoch}, which a sharded selector can only finish in "
            f"the same batches: of {composed_for.batch_size}, not of {schedule.batch_size}."
        )
    if not 0 <= position <= len(index):
        raise CheckpointError(f"its position in epoch {epoch} is {position}.")
    if weights is not None and weights.shape != index.shape:
        raise CheckpointError(f"its selection of epoch {epoch} has {len(weights)} weights.")


def warn_of_late_start(epoch: int) -> None:
    """A forgotten restore must not let the selection start over silently."""
    warn(
        f"epoch {epoch} is the first one that begins: nothing was learned from those before. If "
        "training goes on from a checkpoint, restore this selector too: load_state_dict(), or what "
        "carries it in your framework (SelectionCallback of Lightning, register_for_checkpointing "
        "of Accelerate)."
    )


def warn(message: str) -> None:
    """A `DataAgentWarning` at the line in the user's code."""
    warnings.warn(message, DataAgentWarning, stacklevel=5)
