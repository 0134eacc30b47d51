"""Selection inside each batch: score a pool by a forward pass, train on the best of it.

Where no epoch can be planned (a single pass over the data) or none is wanted, the loader delivers
every sample and the method takes its share of each pool. The forward pass over the pool is paid
for: such a run costs `1/3 + keep_ratio` of full training, not `keep_ratio`.

    for images, labels, index in loader:                     # pools of batch_size / keep_ratio
        with torch.no_grad():
            losses = F.cross_entropy(model(images), labels, reduction="none")
        keep = selector.select_batch(Feedback(index, losses, labels=labels))
        losses = F.cross_entropy(model(images[keep]), labels[keep], reduction="none")
        selector.learn(losses, index[keep]).backward()
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from data_agent.budget.rounds import share_of
from data_agent.budget.schedule import ScheduleKind, SelectionSchedule
from data_agent.errors import InputError, StateError
from data_agent.runtime import distributed
from data_agent.selecting.feedback import Feedback, check_range, plain_arithmetic
from data_agent.selecting.nonfinite import nonfinite_error, without_nonfinite
from data_agent.selecting.selector import Selector


@dataclass(frozen=True, slots=True, eq=False)
class _Offer:
    """A pool whose chosen samples are to be observed next.

    Args:
        pool: int64 `[P]`, the samples that were offered.
        rows: what they showed, of those whose values are finite; None if there are none.
        chosen: int64 `[count]`, the samples taken of it, ascending.
        place: the epoch, and how many of its samples had been offered before.
    """

    pool: Tensor
    rows: Feedback | None
    chosen: Tensor
    place: tuple[int, int]


class BatchSelector(Selector):
    """Chooses within each batch; an epoch offers all samples and trains on exactly K of them.

    To write one, define `name` and `score`.

    Args:
        keep_ratio: share of each pool that is trained on, in (0, 1].
        base: as `Selector`.

    Raises:
        InputError: a value outside its range.
    """

    default_schedule: ClassVar[ScheduleKind] = "uniform"

    forward_cost: ClassVar[float] = 1 / 3
    """Of scoring a sample, in training visits: a backward pass costs as much as two forward passes.
    """

    def __init__(self, *, keep_ratio: float, **base: Any) -> None:
        if base.get("trusted") is not None:
            raise InputError(
                f"{self.name} chooses inside each batch, where trusted rows have no place of their "
                "own. Take a method that chooses epochs (data-agent), or leave trusted out."
            )
        super().__init__(keep_ratio=1.0, **base)
        self._budget = SelectionSchedule(
            num_samples=self.schedule.num_samples, epochs=1, keep_ratio=keep_ratio
        )
        self._offer: _Offer | None = None

    @property
    def keep_ratio(self) -> float:
        """Share of each pool that is trained on, in (0, 1]."""
        return self._budget.keep_ratio

    def settings(self) -> dict[str, Any]:
        """Adds the share, which the schedule of a batch selector does not hold."""
        return {"keep_ratio": self.keep_ratio}

    def score(self, feedback: Feedback) -> Tensor:
        """How much each sample of a pool is wanted, changing no state: float `[P]`, no NaN.

        Args:
            feedback: the pool, detached and finite.
        """
        del feedback
        raise NotImplementedError(f"{type(self).__name__} must define score().")

    def remember(self, pool: Feedback) -> None:
        """Take a pool's finite rows into the method's state, once its choice was trained on."""
        del pool

    def select_batch(self, feedback: Feedback) -> Tensor:
        """Mark the samples of a pool to train on; the next `learn` or `observe` is about these.

        Over an epoch exactly `K = max(1, floor(keep_ratio * N + 0.5))` samples are marked, over
        all ranks: `keep_ratio * P` of a pool where that is whole, else one more or less as the sum
        demands, and one at least. (Where pools have a share of less than two samples, a last pool
        too small for one still trains one. Samples that a framework adds as padding are more to
        choose from, and a pool of another size gets its own share.) Changes no state.

        Args:
            feedback: one row a sample of the pool, `P` in all; no graph is needed.

        Returns:
            bool `[P]` on the device of the losses.

        Raises:
            InputError: an index outside of the dataset, non-finite values, or a pool so small
                that its share is less than one sample.
            StateError: no epoch has begun, or the running one is over.
        """
        place = self._place()
        self._open_epoch().check_open(self.schedule)
        feedback = replace(feedback, index=feedback.index.cpu())
        check_range(feedback.index, self.schedule.num_samples)
        size = len(feedback)
        with self._clock.running(), plain_arithmetic(feedback.losses.device):
            rows, valid = without_nonfinite(feedback)
            if valid is not None and self._on_nonfinite == "raise":
                raise nonfinite_error(feedback.index[~valid])
            count = self._quota(size)
            scores = torch.full((size,), -torch.inf, device=feedback.losses.device)
            if rows is not None:
                places = slice(None) if valid is None else valid.to(scores.device)
                scores[places] = self.score(rows).to(scores.dtype)
            # A stable sort gives equal scores to the first in the pool, which is in random order.
            best = scores.argsort(descending=True, stable=True)[:count]
            mask = torch.zeros(size, dtype=torch.bool, device=scores.device)
            mask[best] = True
        chosen = feedback.index[mask.cpu()].sort().values
        self._offer = _Offer(feedback.index, rows, chosen, place)
        return mask

    def observe(self, feedback: Feedback) -> None:
        """Learn from the chosen samples of the last pool.

        Raises:
            StateError: no pool was offered since the last call.
            InputError: samples other than the chosen ones, and as `Selector.observe`.
        """
        offer = self._offer
        if offer is None or offer.place != self._place():  # of another epoch, or before a restore
            raise StateError(
                f"{self.name} chooses within each batch, and none was offered: call "
                "keep = selector.select_batch(Feedback(index, losses)) and train on batch[keep]."
            )
        pool = offer.pool
        index = feedback.index.cpu()
        if not torch.isin(index, pool).all():
            raise InputError(
                "index holds samples that are not of the pool which select_batch() saw last. Pass "
                "index[keep], and offer one pool at a time."
            )
        if not torch.equal(index.sort().values, offer.chosen):
            raise InputError(
                f"{len(offer.chosen)} of the pool's {len(pool)} samples were chosen, but others "
                f"came ({len(index)} in all). Train on batch[keep], and pass losses of these and "
                "index[keep]."
            )
        super().observe(feedback)
        running = self._open_epoch()
        rest = pool[~torch.isin(pool, index)]
        running.observed.mark(running.places(rest, self.schedule))
        running.num_observed += len(rest)
        if offer.rows is not None:
            with self._clock.running(), plain_arithmetic(offer.rows.losses.device):
                self.remember(offer.rows)
        self._offer = None

    def metrics(self) -> dict[str, float]:
        """As `Selector.metrics`; the planned cost counts the forward pass over every pool."""
        metrics = super().metrics()
        offered = metrics["planned_cost"]  # of what the schedule has samples come from
        return {**metrics, "planned_cost": (self.forward_cost + self.keep_ratio) * offered}

    def _plan_in_words(self) -> str:
        """Of visits, which `summary` counts; scoring comes on top of them."""
        schedule = self.schedule
        visits = schedule.epochs * planned_quota(schedule.num_kept, self.keep_ratio)
        share = visits / (schedule.num_samples * schedule.epochs)
        return f"{share:.1%}, at {self.metrics()['planned_cost']:.1%} of its cost with scoring"

    def progress(self) -> float:
        """Share in [0, 1] of the samples that will be offered, over all ranks; a collective call.

        Counts the pool that is being observed as well.
        """
        running, schedule = self._open_epoch(), self.schedule
        epochs = running.epoch + running.position(schedule) / running.size(schedule)
        return min(1.0, epochs / schedule.epochs)

    def _place(self) -> tuple[int, int]:
        running = self._open_epoch()
        return running.epoch, running.num_observed

    def _quota(self, size: int) -> int:
        """Samples to take of this rank's pool of `size`."""
        running, schedule, ratio = self._open_epoch(), self.schedule, self.keep_ratio
        world, total = schedule.world, running.size(schedule)
        rank = distributed.rank() if world > 1 else 0
        start = running.resume_at + (running.num_observed - running.observed_before) * world
        left = total - start
        round_size = min(size * world, left)
        if schedule.batch_size is not None and left > 0:
            round_size = schedule.next_round(left)
        if size != share_of(round_size, rank, world):  # a pool of the user's, or a padded one
            start, round_size, rank, world = running.num_observed, size, 0, 1
        full = None
        if schedule.batch_size is not None:
            full = max(round_size, schedule.batch_size * world)
        quota = round_quota(
            start, round_size, total=total, keep_ratio=ratio, world=world, full=full
        )
        if quota < world:
            raise InputError(
                f"the pool holds {size} samples, of which keep_ratio={ratio} leaves less than one. "
                f"Offer larger pools: a batch_size of at least {math.ceil(1 / ratio)}."
            )
        return share_of(quota, rank, world)


def planned_quota(total: int, keep_ratio: float) -> int:
    """K, the samples that an epoch takes of the `total` that it offers."""
    return max(1, math.floor(keep_ratio * total + 0.5))


def round_quota(
    start: int, size: int, *, total: int, keep_ratio: float, world: int, full: int | None
) -> int:
    """Samples to take of a round of pools, one on each rank, so that an epoch takes exactly K.

    What the budget grows by from `start` offered samples to `start + size`. Where an epoch can
    spare it, two samples for each rank are left for each of the last rounds, or at least one, as
    far as the last pools hold them: many models cannot train on a batch of a single sample.

    Args:
        start: samples that were offered before, over all ranks.
        size: samples in the round, over all ranks.
        total: N, samples that the epoch offers.
        keep_ratio: share that is taken, in (0, 1].
        world: number of ranks.
        full: samples in a full round, over all ranks; `size` but for the last rounds. None where
            pools come as they like: nothing is left for later ones, whose sizes are not known.

    Returns:
        0 or more; in the last round at least one for each rank.
    """
    budget = planned_quota(total, keep_ratio)
    least = 0  # of each round
    if full is not None:
        most = min(budget // math.ceil(total / full), math.floor(keep_ratio * full))
        least = world * min(2, most // world)

    def taken(offered: int) -> int:
        if offered >= total:
            return budget
        if full is None:
            return min(math.floor(keep_ratio * offered + 0.5), budget)
        num_after = math.ceil((total - offered) / full)
        last = total - offered - (num_after - 1) * full
        reserve = least * (num_after - 1) + min(least, last)
        return min(math.floor(keep_ratio * offered + 0.5), budget - reserve)

    quota = taken(start + size) - taken(start)
    return max(world, quota) if start + size >= total else quota
