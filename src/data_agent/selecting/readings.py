"""Where a run stands, what it saved and what samples showed: for loggers and for people."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_agent.budget.schedule import SelectionSchedule
from data_agent.runtime import distributed
from data_agent.runtime.clock import Stopwatch
from data_agent.runtime.masks import size_of
from data_agent.selecting.counting import CountsEpochs
from data_agent.selecting.epoch import RunningEpoch
from data_agent.selecting.method import Method
from data_agent.selecting.recorder import Recorder
from data_agent.selecting.statistics import SampleStatistics


class Readings(CountsEpochs, Method):
    """What a selector tells of its run; nothing here changes its state."""

    _clock: Stopwatch
    _recorder: Recorder
    _statistics: SampleStatistics | None
    trusted: Tensor | None

    @property
    def overhead_seconds(self) -> float:
        """Time spent inside the selector so far."""
        return self._clock.seconds

    def metrics(self) -> dict[str, float]:
        """Numbers for any logger: where the run stands and what it saved."""
        now = progress_metrics(self.schedule, self._running, visits=self.visits, clock=self._clock)
        return {**now, "skipped_nonfinite": float(self._recorder.staging.num_skipped)}

    def summary(self) -> str:
        """One line for a person: where the run stands, trusted rows, and which algorithm runs."""
        where = progress_summary(
            *(self.name, self.schedule, self._running, self.metrics()),
            plan=self._plan_in_words(),
        )
        return "; ".join([where, *self._trusted_in_words(), self.describe()])

    def _plan_in_words(self) -> str:
        """What share of a full run the visits will come to."""
        return f"{self.metrics()['planned_cost']:.1%}"

    def _trusted_in_words(self) -> list[str]:
        """How many rows are trusted and when they come, where the method does not say it itself."""
        if self.trusted is None:
            return []
        has_pass = self.schedule.plan(0).phase == "warm-up"
        when = "every epoch after the first pass" if has_pass else "every epoch"
        return [f"{size_of(self.trusted):,} trusted rows in {when}"]

    @distributed.together("table()")
    def table(self) -> dict[str, NDArray[Any]]:
        """What every sample showed so far: arrays `[N]` by name, for a data frame or a file.

        Always "index" (int64), and unless `sample_statistics` is off "visits" (int64), "loss" of
        the last visit and "mean_loss" over all visits (float32). Where logits or uncertainties came
        "uncertainty", the mean. Where labels came "label" (int64), and with logits
        "mean_probability" of the label, "margin" (what the label's probability was above that of
        the likeliest other class, on average) and "suggested_label" (int64), the class that was
        believed most. Where rows are trusted "trusted", bool. Where the method has one "score",
        what it ranks samples by, and with label rules "suspected", bool. nan and -1 stand for what
        a sample did not show. A sharded selector tells of the samples of its part.

        On several ranks a collective call. The running epoch's visits count.
        """
        places = torch.arange(self.own.num_samples)
        found: dict[str, NDArray[Any]] = {"index": self.own.shard.samples(places).numpy()}
        if self._statistics is not None:
            statistics = self._statistics.copy()
            statistics.merge(*self._recorder.rows_so_far(statistics))
            found.update(statistics.arrays())
        if self.trusted is not None:
            found["trusted"] = self.trusted.numpy().copy()
        if (score := self.sample_scores()) is not None:
            values = score.float().numpy()
            found["score"] = np.where(np.isfinite(values), values, np.float32(np.nan))
        return found


def progress_metrics(
    schedule: SelectionSchedule, running: RunningEpoch | None, *, visits: int, clock: Stopwatch
) -> dict[str, float]:
    """Plain numbers.

    Args:
        schedule: the budget.
        running: the epoch that has begun, if any.
        visits: samples observed so far, over all ranks.
        clock: the selector's time.
    """
    full = schedule.num_samples * schedule.epochs
    return {
        "epoch": float(-1 if running is None else running.epoch),
        "visits": float(visits),
        "visits_of_full_run": visits / full,
        "planned_cost": schedule.total_visits / full,
        "overhead_seconds": clock.seconds,
        "overhead_share": clock.share(),
    }


def progress_summary(
    name: str,
    schedule: SelectionSchedule,
    running: RunningEpoch | None,
    now: dict[str, float],
    *,
    plan: str,
) -> str:
    """One line, from `progress_metrics`, and the `plan` of visits in words."""
    where = f"{name}: no epoch has begun"
    if running is not None:
        of_epoch = schedule.plan(running.epoch)
        is_chosen = of_epoch.phase == "final" and of_epoch.num_selected  # of "to-the-end"
        phase = "selected" if is_chosen else of_epoch.phase
        where = f"{name}: epoch {running.epoch + 1}/{schedule.epochs} ({phase})"
    return (
        f"{where}, {now['visits']:,.0f} visits = {now['visits_of_full_run']:.1%} of a full run "
        f"(plan: {plan}), overhead {now['overhead_share']:.1%} of the time"
    )
