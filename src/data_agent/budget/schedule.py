"""What each epoch is: warm-up, selected or final, and exactly how many samples and steps it has."""

from __future__ import annotations

import difflib
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from numbers import Integral, Real
from typing import Literal, get_args

from data_agent.budget.rounds import LastRounds, Rounds, cut, share_of, smallest_batch, spread
from data_agent.errors import DataAgentWarning, InputError
from data_agent.runtime.shards import WHOLE, Shard

Phase = Literal["warm-up", "selected", "final"]
ScheduleKind = Literal["exact", "to-the-end", "paper", "uniform", "static", "floating"]
_KINDS: tuple[ScheduleKind, ...] = get_args(ScheduleKind)
FINAL_SHARE = 8  # the final phase is one epoch in eight (12.5 % of training, as in the paper)


@dataclass(frozen=True, slots=True)
class EpochPlan:
    """One epoch: its phase, and how many samples come unselected, by exploration, and chosen."""

    phase: Phase
    num_unselected: int
    num_explored: int
    num_selected: int

    @property
    def num_uniform(self) -> int:
        """Samples that are in the epoch whatever the method thinks of them."""
        return self.num_unselected + self.num_explored

    @property
    def size(self) -> int:
        """Samples in the epoch."""
        return self.num_uniform + self.num_selected


@dataclass(frozen=True, kw_only=True, slots=True)
class SelectionSchedule:
    """The budget of a run, epoch by epoch; a pure value.

    - "exact": every epoch visits exactly `K = max(1, floor(keep_ratio * num_samples + 0.5))`
      distinct samples. The first `min(N, K * epochs)` visits are a warm-up over all samples, the
      last `floor(epochs / 8)` epochs are unselected again, all others are chosen.
    - "to-the-end": as exact, but the method chooses the last epochs too, told so by their phase.
    - "paper": one full epoch, then K samples an epoch, then full epochs for the last eighth.
    - "uniform": K samples an epoch, never chosen: every pass over the data is a permutation.
    - "static": K chosen samples in every epoch, for subsets that stand before training.
    - "floating": as paper, but each epoch has as many as the method wants, known only when it
      begins; all counts here are upper bounds.

    Args:
        num_samples: N, length of the dataset, at least 1.
        epochs: E, number of epochs, at least 1.
        keep_ratio: share of the dataset visited in an epoch, in (0, 1].
        kind: see above.
        batch_size: samples a step on each rank; None while no loader is known.
        world: number of ranks that share an epoch.
        drop_last: leave out a last batch that is not full.
        last_rounds: what becomes of a rest that fills no batch on each rank, see `LastRounds`.
        explore: share in [0, 1) of a selected epoch that is drawn uniformly, without replacement
            until all were drawn: nothing is given up for ever, and a method sees a fair sample.
        shard: of which the samples are, where ranks share the tables, see `for_shard`.
        whole: of such a shard the schedule of all samples; None elsewhere.

    Raises:
        InputError: a value outside its range.
    """

    num_samples: int
    epochs: int
    keep_ratio: float
    kind: ScheduleKind = "exact"
    batch_size: int | None = None
    world: int = 1
    drop_last: bool = False
    last_rounds: LastRounds = "spread"
    explore: float = 0.0
    shard: Shard = WHOLE
    whole: SelectionSchedule | None = None

    def __post_init__(self) -> None:
        _check_count("num_samples", self.num_samples, "the length of the training dataset")
        _check_count("epochs", self.epochs, "the number of epochs you train for")
        _check_keep_ratio(self.keep_ratio)
        # Plain numbers only: what NumPy counts with would not load with weights_only=True.
        object.__setattr__(self, "num_samples", int(self.num_samples))
        object.__setattr__(self, "epochs", int(self.epochs))
        object.__setattr__(self, "keep_ratio", float(self.keep_ratio))
        if self.kind not in _KINDS:
            raise InputError(_unknown_kind(self.kind))
        if self.kind == "floating" and self.keep_ratio != 1:
            raise InputError(
                f"keep_ratio is {self.keep_ratio}, but in a floating schedule the method decides "
                "how many samples an epoch has; leave it at 1."
            )
        if self.kind == "floating" and (self.world > 1 or self.drop_last):
            raise InputError(
                "a floating schedule has no fixed number of steps, so ranks cannot share it and "
                f"drop_last cannot be kept: world is {self.world}, drop_last {self.drop_last}. "
                "Use the method's exact budget."
            )
        if self.batch_size is not None:
            _check_count("batch_size", self.batch_size, "samples a step on each rank")
        if not 0 <= self.explore < 1:
            raise InputError(
                f"explore is {self.explore!r}; expected a share in [0, 1). It is what of a "
                "selected epoch is drawn uniformly: 0.1 is a tenth, 0 none; for epochs that are "
                "never chosen use schedule='uniform'."
            )
        if self.num_kept == 0:
            raise InputError(self._why_empty())

    @property
    def raw_kept(self) -> int:
        """K before a loader's rounding: `max(1, floor(keep_ratio * num_samples + 0.5))`."""
        return max(1, math.floor(self.keep_ratio * self.num_samples + 0.5))

    @property
    def num_kept(self) -> int:
        """K: samples in a selected epoch, over all ranks."""
        if self.whole is None:
            return self.loadable(self.raw_kept)
        if self.batch_size is None:
            return share_of(self.whole.num_kept, self.shard.rank, self.shard.world)
        return self.whole.rank_size(self.whole.num_kept, self.shard.rank)

    @property
    def num_explored(self) -> int:
        """Samples of a selected epoch that are drawn uniformly; 0 where no epoch is selected."""
        return 0 if self.kind == "uniform" else math.floor(self.explore * self.num_kept + 0.5)

    @property
    def num_left_out(self) -> int:
        """Samples an epoch that a loader's batches cannot hold, see `loadable`."""
        return self.raw_kept - self.num_kept

    @property
    def total_visits(self) -> int:
        """Samples visited in the whole run, over all ranks, with those that a framework repeats."""
        return _total_visits(self)

    def for_loader(
        self, batch_size: int, *, world: int, drop_last: bool, last_rounds: LastRounds = "spread"
    ) -> SelectionSchedule:
        """The same budget as delivered by a loader in batches of `batch_size` on `world` ranks."""
        loader = {"batch_size": batch_size, "world": world, "last_rounds": last_rounds}
        return replace(self, drop_last=drop_last, **loader)

    def for_shard(self, shard: Shard) -> SelectionSchedule:
        """The part of this budget that falls to a shard: a schedule of its samples on one rank.

        Each has its share of K, so that the sum is K and all of them make equally many steps.
        """
        if not shard.is_part:
            return self
        num_samples = shard.size(self.num_samples)
        return replace(self, num_samples=num_samples, world=1, shard=shard, whole=self)

    def plan(self, epoch: int) -> EpochPlan:
        """The plan of `epoch` in [0, epochs)."""
        if not isinstance(epoch, Integral) or not 0 <= epoch < self.epochs:
            raise InputError(_no_such_epoch(epoch, self.epochs))
        if self.kind == "uniform":
            return EpochPlan("final", self.num_kept, 0, 0)
        if self.kind == "static":
            return self._selected_plan()
        is_final = epoch >= self.epochs - self.epochs // FINAL_SHARE
        if self.kind in ("paper", "floating"):
            return self._paper_plan(epoch, is_final=is_final)
        kept = self.num_kept
        warm_up_left = min(self.num_samples, kept * self.epochs) - epoch * kept
        may_choose = not is_final or self.kind == "to-the-end"
        if warm_up_left > 0:  # the first pass comes first, also where the final phase would begin
            selected = max(0, kept - warm_up_left) if may_choose else 0
            return EpochPlan("warm-up", kept - selected, 0, selected)
        if is_final:
            selected = kept if may_choose else 0
            return EpochPlan("final", kept - selected, 0, selected)
        return self._selected_plan()

    def epoch_size(self, epoch: int) -> int:
        """Samples in `epoch`, over all ranks."""
        return self.plan(epoch).size

    def loadable(self, size: int) -> int:
        """How many of the last `size` samples of an epoch the loader's batches hold.

        All but a rest of `drop_last`, one smaller than the number of ranks, or one that cannot be
        spread and would make a batch of a single sample where the loader of all data makes none.
        """
        if self.batch_size is None or self.whole is not None:  # a share is made to fit
            return size
        rest = size % (self.batch_size * self.world)
        is_left_out = self.drop_last or rest < self.world or self._makes_single(size)
        return size - rest if is_left_out else size

    def rounds(self, size: int) -> Rounds:
        """How the last `size` samples of an epoch, all of them loadable, are cut."""
        assert self.batch_size is not None
        if self.last_rounds != "spread":
            return cut(size, self.batch_size * self.world)
        whole = self.whole or self
        smallest = smallest_batch(whole.num_samples, self.batch_size, whole.world)
        return spread(size, self.batch_size, self.world, smallest)

    def next_round(self, size: int) -> int:
        """Samples in the first round of the last `size` ones of an epoch, over all ranks."""
        assert self.batch_size is not None
        num_full, last = self.rounds(size)
        return self.batch_size * self.world if num_full or not last else last[0]

    def batch_sizes(self, size: int, rank: int) -> Iterator[int]:
        """The sizes of the batches in which the last `size` samples come to `rank`."""
        assert self.batch_size is not None
        num_full, last = self.rounds(size)
        for _ in range(num_full):
            yield self.batch_size
        for count in last:
            yield share_of(count, rank, self.world)

    def batches_in(self, position: int, size: int) -> tuple[int, bool]:
        """Rounds that the first `position` of `size` samples are in, and whether all are whole."""
        round_size = (self.batch_size or 1) * self.world
        num_full, last = (size, []) if self.batch_size is None else self.rounds(size)
        count = min(num_full, math.ceil(position / round_size))
        left = position - count * round_size
        for number, round_size in enumerate(last):
            if left <= 0:
                break
            left, count = left - round_size, num_full + number + 1
        return count, left == 0

    def num_repeated(self, size: int) -> int:
        """Samples that a framework repeats to fill the last round of an epoch of `size`."""
        if self.last_rounds != "filled" or self.batch_size is None:
            return 0
        return -size % (self.batch_size * self.world)

    def steps(self, epoch: int, batch_size: int | None = None) -> int:
        """Batches in `epoch` on each rank."""
        batch_size = batch_size or self.batch_size
        if batch_size is None:
            raise InputError(
                "the number of steps depends on the batch size, which is not known yet. Pass "
                "batch_size=, or build the loader first."
            )
        return math.ceil(self.epoch_size(epoch) / (batch_size * self.world))

    def rank_size(self, size: int, rank: int) -> int:
        """Of `size` samples in order, how many come to `rank` in all its batches."""
        if self.world == 1:
            return size
        if self.batch_size is None:
            raise InputError(
                "how ranks share an epoch depends on the batch size, which is not known yet. "
                "Build the loader first, or ask schedule.for_loader(batch_size, ...)."
            )
        return sum(self.batch_sizes(size, rank))

    def total_steps(self, batch_size: int | None = None, *, accumulation: int = 1) -> int:
        """Optimizer steps in the whole run: what a learning-rate schedule needs.

        Args:
            batch_size: samples a step on each rank; None takes the loader's.
            accumulation: batches for each step; an epoch's last group may be smaller.
        """
        _check_count("accumulation", accumulation, "batches for each optimizer step")
        return sum(
            math.ceil(self.steps(epoch, batch_size) / accumulation) for epoch in range(self.epochs)
        )

    def warn_if_nothing_is_selected(self) -> None:
        """Say so when warm-up and final phase leave nothing to choose."""
        if self.kind in ("uniform", "floating") or self.keep_ratio == 1:
            return
        plans = map(self.plan, range(self.epochs))
        if any(plan.num_selected and plan.phase != "final" for plan in plans):
            return
        needed = self.epochs
        while (needed - needed // FINAL_SHARE) * self.num_kept <= self.num_samples:
            needed += 1
        remedy = f"epochs >= {needed}"
        choosing_epochs = self.epochs - self.epochs // FINAL_SHARE
        if choosing_epochs > 1:
            remedy += f" or keep_ratio > {1 / choosing_epochs:.3g}"
        warnings.warn(
            f"nothing will be selected: {self.epochs} epoch(s) of {self.num_kept} samples are "
            f"used up by one warm-up pass over {self.num_samples}. With {remedy} there is "
            "something to choose; in so few, methods that choose inside each batch can "
            "(selective-backprop, data-agent-in-batch).",
            DataAgentWarning,
            stacklevel=4,
        )

    def _paper_plan(self, epoch: int, *, is_final: bool) -> EpochPlan:
        if epoch and not is_final:
            return self._selected_plan()
        phase = "final" if epoch else "warm-up"
        return EpochPlan(phase, self.loadable(self.num_samples), 0, 0)

    def _makes_single(self, size: int) -> bool:
        """Whether the last round gives a rank a single sample, where all data never make that."""
        if self.batch_size is None or self.last_rounds == "filled":
            return False
        if smallest_batch(self.num_samples, self.batch_size, self.world) == 1:
            return False
        last = self.rounds(size).last
        return bool(last) and min(last) // self.world <= 1

    def _why_empty(self) -> str:
        if not self.drop_last and self.raw_kept >= self.world:
            return (
                f"an epoch would be one batch of a single sample on a rank: {self.raw_kept} of "
                f"{self.num_samples} samples are kept, for batches of {self.batch_size} on "
                f"{self.world} rank(s), and your loader of all samples never makes such a batch "
                "(batch normalisation cannot train on it). Use a higher keep_ratio, or "
                "batch_size=1 if your model takes single samples."
            )
        remedy = "Use a higher keep_ratio, or fewer ranks."
        if self.drop_last:
            remedy = "Use a smaller batch_size, a higher keep_ratio, or drop_last=False."
        return (
            f"an epoch would be empty: {self.raw_kept} samples do not fill one batch of "
            f"{self.batch_size} on {self.world} rank(s). {remedy}"
        )

    def _selected_plan(self) -> EpochPlan:
        return EpochPlan("selected", 0, self.num_explored, self.num_kept - self.num_explored)


def _no_such_epoch(epoch: object, epochs: int) -> str:
    if epoch is None:
        return (
            "epoch is None, which is what a selector's `epoch` says before its first one. Ask "
            "within `for epoch in agent.epochs():`, or name an epoch by its number: "
            f"agent.select(0); the last one is {epochs - 1}."
        )
    return f"epoch {epoch!r} does not exist: the schedule has {epochs}."


def _unknown_kind(kind: object) -> str:
    near = difflib.get_close_matches(str(kind), _KINDS, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"schedule {kind!r} is unknown; expected one of {', '.join(map(repr, _KINDS))}.{hint}"


def _check_count(name: str, value: object, meaning: str) -> None:
    if not isinstance(value, Integral) or isinstance(value, bool) or int(value) < 1:
        raise InputError(f"{name} is {value!r}; expected a whole number >= 1 ({meaning}).")


def _check_keep_ratio(value: object) -> None:
    if not isinstance(value, Real) or isinstance(value, bool) or not 0 < float(value) <= 1:
        raise InputError(
            f"keep_ratio is {value!r}; expected a share of the dataset in (0, 1]. It is what is "
            "*kept*: 0.5 trains on half of the samples in every epoch."
        )


@lru_cache
def _total_visits(schedule: SelectionSchedule) -> int:
    sizes = map(schedule.epoch_size, range(schedule.epochs))
    return sum(size + schedule.num_repeated(size) for size in sizes)
