"""One run of a comparison, in any process, and the account of what became of all runs."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_agent.errors import DataAgentError
from data_agent_lab.progress import Progress, Tracker
from data_agent_lab.recipes import Recipe, RunConfig
from data_agent_lab.runs.folder import open_run
from data_agent_lab.runs.result import reached_in_words
from data_agent_lab.tasks import load_task
from data_agent_lab.terminal import format_seconds
from data_agent_lab.training.run import train_run

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOutcome:
    """What became of a run: a result, a failure, or neither, when it was stopped or never begun."""

    reached: str | None = None  # the metric of the last epoch, in words
    failure: str | None = None  # why it failed, in a line
    trace: str | None = None  # where, if the failure was not one of the library's own errors

    @property
    def is_stopped(self) -> bool:
        """Whether the run can go on."""
        return self.reached is None and self.failure is None


class LoadedData:
    """The data of the last recipe that was asked for: one data set in memory at a time."""

    _recipe: Recipe | None = None
    _samples: Any = None

    def of(self, recipe: Recipe, progress: Progress) -> Any:
        """The data of a recipe; runs come task by task."""
        if recipe != self._recipe:
            self._recipe = self._samples = None
            self._samples = load_task(recipe, progress)
            self._recipe = recipe
        return self._samples


def execute(
    run: RunConfig[Any],
    output: Path,
    data: LoadedData,
    *,
    jobs: int,
    tracker: Tracker | None,
    progress: Progress,
    should_stop: Callable[[], bool],
) -> RunOutcome:
    """Train a run, begun before or not, to its end, to a request to stop, or to a failure.

    `jobs` runs train at the same time; the other arguments are those of `session.run_all`.
    """
    try:
        samples = data.of(run.recipe, progress)
        with open_run(output / run.name, run.flat(), resume=True) as folder:
            result = train_run(
                *(run, samples, folder),
                jobs=jobs,
                tracker=tracker,
                progress=progress,
                should_stop=should_stop,
            )
    except (Exception, SystemExit) as error:  # whatever it is, the other runs go on
        trace = None if isinstance(error, DataAgentError) else traceback.format_exc()
        return RunOutcome(failure=f"{type(error).__name__}: {error}", trace=trace)
    return RunOutcome(reached=None if result is None else reached_in_words(result))


class Account:
    """What became of runs, of which each is expected to take its seconds; `progress` is told."""

    def __init__(self, seconds: Mapping[str, float], progress: Progress) -> None:
        self.outcomes = {name: RunOutcome() for name in seconds}
        self._seconds, self._total, self._progress = seconds, sum(seconds.values()), progress
        self._done: dict[str, float] = {}  # expected seconds of what is done, by run
        self._started = time.monotonic()

    def update(self, run: RunConfig[Any], what: str, done: int, total: int) -> None:
        """Take note of how far a run is."""
        if what.startswith("epoch"):
            self._done[run.name] = self._seconds[run.name] * done / total
        num_working = sum(self.outcomes[name].is_stopped for name in self._done)
        work = f"{run.name}, {what}" if num_working <= 1 else f"{num_working} at work"
        self._progress(
            f"{len(self.outcomes) - self._num_left} of {len(self.outcomes)} runs; {work}",
            round(sum(self._done.values())),
            max(1, round(self._total)),
        )

    def end(self, run: RunConfig[Any], outcome: RunOutcome) -> None:
        """Take note of a run's end."""
        self.outcomes[run.name] = outcome
        if outcome.is_stopped:
            return
        self._done[run.name] = self._seconds[run.name]
        if outcome.failure is not None:
            logger.error("%s failed: %s", run.name, outcome.trace or outcome.failure)
            return
        left = ""
        if self._num_left:
            share = sum(self._done.values()) / self._total
            seconds = (time.monotonic() - self._started) * (1 - share) / share
            left = f" ({self._num_left} to go, about {format_seconds(seconds)})"
        logger.info("%s: %s%s", run.name, outcome.reached, left)

    @property
    def _num_left(self) -> int:
        return sum(outcome.is_stopped for outcome in self.outcomes.values())
