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

from data_agent._errors import InputError, StateError
from data_agent._messages import Feedback, check_range, plain_arithmetic
from data_agent._nonfinite import without_nonfinite
from data_agent._schedule import ScheduleKind, SelectionSchedule
from data_agent._selector import Selector

FORWARD_COST = 1 / 3  # of a training visit: a backward pass costs as much as two forward passes


@dataclass(frozen=True, slots=True, eq=False)
class _Offer:
    """A pool whose chosen samples are to be observed next.

    Args:
        pool: what was offered.
        chosen: int64 `[count]`, the samples taken of it, ascending.
        place: the epoch, and how many of its samples had been offered before.
    """

    pool: Feedback
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

    def __init__(self, *, keep_ratio: float, **base: Any) -> None:
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
        """Take a pool into the method's state, once its chosen samples were trained on."""
        del pool

    def select_batch(self, feedback: Feedback) -> Tensor:
        """Mark the samples of a pool to train on; the next `learn` or `observe` is about these.

        Over an epoch exactly `K = max(1, floor(keep_ratio * N + 0.5))` samples are marked on one
        rank: `round(keep_ratio * P)` of a pool where that is whole, else one more or less as the
        sum demands. (A last pool too small for one sample still trains one.) Changes no state.

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
        check_range(feedback.index, self.schedule.num_samples)
        size = len(feedback)
        with self._clock.running(), plain_arithmetic(feedback):
            feedback = replace(feedback, index=feedback.index.cpu())
            feedback = without_nonfinite(feedback, self._on_nonfinite)
            count = self._quota(place[1], size)
            # A stable sort gives equal scores to the first in the pool, which is in random order.
            best = self.score(feedback).argsort(descending=True, stable=True)[:count]
            mask = torch.zeros(size, dtype=torch.bool, device=feedback.losses.device)
            mask[best] = True
        chosen = feedback.index[mask.cpu()].sort().values
        self._offer = _Offer(feedback, chosen, place)
        return mask

    def observe(self, feedback: Feedback) -> None:
        """Learn from the chosen samples of the last pool.

        Raises:
            StateError: no pool was offered since the last call.
            InputError: others than the chosen samples, and as `Selector.observe`.
        """
        offer = self._offer
        if offer is None or offer.place != self._place():  # of another epoch, or before a restore
            raise StateError(
                f"{self.name} chooses within each batch, and none was offered: call "
                "keep = selector.select_batch(Feedback(index, losses)) and train on batch[keep]."
            )
        pool = offer.pool
        index = feedback.index.cpu()
        if not torch.isin(index, pool.index).all():
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
        self._open_epoch().num_observed += len(pool) - len(feedback)
        with self._clock.running(), plain_arithmetic(pool):
            self.remember(pool)
        self._offer = None

    def metrics(self) -> dict[str, float]:
        """As `Selector.metrics`; the planned cost counts the forward pass over every pool."""
        return {**super().metrics(), "planned_cost": FORWARD_COST + self.keep_ratio}

    def progress(self) -> float:
        """Share in [0, 1] of the samples that will be offered, over all ranks; a collective call.

        Counts the pool that is being observed as well.
        """
        running, schedule = self._open_epoch(), self.schedule
        epochs = running.epoch + running.position(schedule) / len(running.selection)
        return min(1.0, epochs / schedule.epochs)

    def _place(self) -> tuple[int, int]:
        running = self._open_epoch()
        return running.epoch, running.num_observed

    def _quota(self, offered: int, size: int) -> int:
        """Samples to take of a pool: what the epoch's budget has grown by since the last one."""
        ratio = self.keep_ratio
        before, after = (math.floor(ratio * n + 0.5) for n in (offered, offered + size))
        is_last = offered + size >= self.schedule.num_samples
        if after == before and not is_last:
            raise InputError(
                f"the pool holds {size} samples, of which keep_ratio={ratio} leaves less than one. "
                f"Offer larger pools: a batch_size of at least {math.ceil(1 / ratio)}."
            )
        return max(1, after - before)
