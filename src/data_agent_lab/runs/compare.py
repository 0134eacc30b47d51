"""Running a comparison: what is left to do, in turn or in parallel, and what became of it."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from data_agent.errors import InputError
from data_agent_lab.grid import Grid
from data_agent_lab.progress import Progress, silent
from data_agent_lab.recipes import RunConfig
from data_agent_lab.runs.execution import LoadedData, RunOutcome, execute
from data_agent_lab.runs.folder import LOCK, RunFolder, check_resumable, hold_folder
from data_agent_lab.runs.workers import run_parallel
from data_agent_lab.terminal import format_seconds

logger = logging.getLogger(__name__)


@contextmanager
def hold_output(output: Path) -> Generator[None]:
    """Keep other comparisons out of a folder, which is made if needed, while the block runs.

    If nothing came of it, the folder is gone again afterwards.

    Raises:
        InputError: another process holds it, or it is no folder for a comparison.
    """
    if output.exists() and not output.is_dir():
        raise InputError(f"{output} is a file; the output must be a folder.")
    if (output / "config.json").exists():
        raise InputError(
            f"{output} is the folder of a single run, or of another program. Choose another "
            "--output."
        )
    made = [path for path in (output, *output.parents) if not path.exists()]
    with hold_folder(output, holder="comparison"):
        try:
            yield
        finally:
            if made and list(output.iterdir()) == [output / LOCK]:
                with contextlib.suppress(OSError):  # another program put something there meanwhile
                    (output / LOCK).unlink()
                    for path in made:
                        path.rmdir()


def pending_runs(grid: Grid, output: Path, *, resume: bool) -> list[RunConfig[Any]]:
    """The runs that are still to do, in order; finished ones are not done again.

    Args:
        grid: the comparison.
        output: its folder; need not exist.
        resume: go on with unfinished runs.

    Raises:
        InputError: a run's folder holds something else, another configuration or a damaged
            result, or an unfinished run without `resume`. Nothing has been started then.
    """
    pending: list[RunConfig[Any]] = []
    for run in grid.runs():
        folder = RunFolder(output / run.name)
        status = folder.status(run.flat())
        if status == "finished":
            folder.result()  # can be read
            continue
        check_resumable(folder.path, status, resume=resume)
        pending.append(run)
    return pending


def run_all(
    runs: Sequence[RunConfig[Any]],
    output: Path,
    *,
    jobs: int = 1,
    seconds: Mapping[str, float],
    progress: Progress = silent,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, RunOutcome]:
    """Train runs; one that fails is logged and the others go on.

    Args:
        runs: as `pending_runs` gave them.
        output: the comparison's folder.
        jobs: how many train at the same time, each in a process of its own; 1 trains in this one.
        seconds: by run, how long it will take; for what is said about the time left.
        progress: told how far all of them are.
        should_stop: asked after every optimizer step, or several times a second.

    Returns:
        By run, what became of it.
    """
    tracker = _Tracker(runs, seconds, progress)
    if jobs > 1 and len(runs) > 1:
        run_parallel(
            runs,
            output,
            jobs=jobs,
            on_progress=tracker.update,
            on_end=tracker.end,
            should_stop=should_stop,
        )
        return tracker.outcomes
    data = LoadedData()
    for run in runs:
        report = partial(tracker.update, run)
        outcome = execute(run, output, data, jobs=1, progress=report, should_stop=should_stop)
        tracker.end(run, outcome)
        if outcome.is_stopped:
            break
    return tracker.outcomes


class _Tracker:
    """Keeps the outcomes of runs, and says how far all of them are and how long they will take."""

    def __init__(
        self, runs: Sequence[RunConfig[Any]], seconds: Mapping[str, float], progress: Progress
    ) -> None:
        self.outcomes = {run.name: RunOutcome() for run in runs}
        self._seconds = seconds
        self._done: dict[str, float] = {}  # expected seconds of what is done, by run
        self._progress = progress
        self._started = time.monotonic()

    def update(self, run: RunConfig[Any], what: str, done: int, total: int) -> None:
        """Take note of how far a run is."""
        if what.startswith("epoch"):
            self._done[run.name] = self._seconds[run.name] * done / total
        at_work = [name for name in self._done if self.outcomes[name].is_stopped]
        work = f"{run.name}, {what}" if len(at_work) <= 1 else f"{len(at_work)} at work"
        total_seconds = sum(self._seconds[name] for name in self.outcomes)
        self._progress(
            f"{len(self.outcomes) - self._num_left} of {len(self.outcomes)} runs; {work}",
            round(sum(self._done.values())),
            max(1, round(total_seconds)),
        )

    def end(self, run: RunConfig[Any], outcome: RunOutcome) -> None:
        """Take note of a run's end."""
        self.outcomes[run.name] = outcome
        if outcome.is_stopped:
            return
        self._done[run.name] = self._seconds[run.name]
        if outcome.failure is not None:
            logger.error("%s failed: %s", run.name, outcome.trace or outcome.failure)
        else:
            logger.info("%s: %s%s", run.name, outcome.reached, self._left())

    @property
    def _num_left(self) -> int:
        return sum(outcome.is_stopped for outcome in self.outcomes.values())

    def _left(self) -> str:
        if not self._num_left:
            return ""
        done = sum(self._done.values())
        left = sum(self._seconds[name] for name in self.outcomes) - done
        seconds = (time.monotonic() - self._started) * left / done
        return f" ({self._num_left} to go, about {format_seconds(seconds)})"
