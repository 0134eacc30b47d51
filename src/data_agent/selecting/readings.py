"""Where a run stands and what it saved: for loggers and for people."""

from __future__ import annotations

from data_agent.budget.schedule import SelectionSchedule
from data_agent.runtime.clock import Stopwatch
from data_agent.selecting.epoch import RunningEpoch


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
    name: str, schedule: SelectionSchedule, running: RunningEpoch | None, now: dict[str, float]
) -> str:
    """One line, from `progress_metrics`."""
    where = f"{name}: no epoch has begun"
    if running is not None:
        phase = schedule.plan(running.epoch).phase
        where = f"{name}: epoch {running.epoch + 1}/{schedule.epochs} ({phase})"
    return (
        f"{where}, {now['visits']:,.0f} visits = {now['visits_of_full_run']:.1%} of a full run "
        f"(plan: {now['planned_cost']:.1%}), overhead {now['overhead_share']:.1%} of the time"
    )
