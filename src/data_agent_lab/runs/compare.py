"""Running a comparison: what is left to do, in turn or in parallel, and what came of it."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from data_agent.errors import InputError
from data_agent_lab.runs.execution import Ending, TaskData, execute
from data_agent_lab.grid import Grid, Run
from data_agent_lab.progress import Progress, silent
from data_agent_lab.runs.folder import LOCK, RunFolder, check_resumable, hold_folder
from data_agent_lab.terminal import format_seconds
from data_agent_lab.training.train import never
from data_agent_lab.runs.workers import run_parallel

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Outcome:
    """What became of the runs of one session.

    Args:
        failed: by run, why it ended early.
        is_stopped: the session was asked to stop before all runs were done.
    """

    failed: dict[str, str] = field(default_factory=lambda: dict[str, str]())
    is_stopped: bool = False


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
                (output / LOCK).unlink()
                with contextlib.suppress(OSError):  # somebody else put something there meanwhile
                    for path in made:
                        path.rmdir()


def pending_runs(grid: Grid, output: Path, *, resume: bool) -> list[Run]:
    """The runs that are still to do, in order; finished ones are not done again.

    Args:
        grid: the comparison.
        output: its folder; need not exist.
        resume: go on with unfinished runs.

    Raises:
        InputError: a run's folder holds something else, another configuration or a damaged
            result, or an unfinished run without `resume`. Nothing has been started then.
    """
    pending: list[Run] = []
    for run in grid.runs():
        folder = RunFolder(output / run.name)
        status = folder.status(run.config.flat())
        if status == "finished":
            folder.result()  # can be read
            continue
        check_resumable(folder.path, status, resume=resume)
        pending.append(run)
    return pending


def run_all(
    runs: Sequence[Run],
    output: Path,
    *,
    jobs: int = 1,
    seconds: Mapping[str, float],
    progress: Progress = silent,
    should_stop: Callable[[], bool] = never,
) -> Outcome:
    """Train runs; one that fails is logged and the others go on.

    Args:
        runs: as `pending_runs` gave them.
        output: the comparison's folder.
        jobs: how many train at the same time, each in a process of its own; 1 trains in this one.
        seconds: by run, how long it will take; for what is said about the time left.
        progress: told how far all of them are.
        should_stop: asked after every optimizer step, or several times a second.
    """
    tally = _Tally(runs, seconds, progress)
    jobs = min(jobs, len(runs))
    if jobs > 1:
        run_parallel(
            runs,
            output,
            jobs=jobs,
            on_progress=tally.update,
            on_end=tally.end,
            should_stop=should_stop,
        )
    else:
        _run_in_turn(runs, output, tally, should_stop)
    tally.outcome.is_stopped = tally.num_ended < len(runs)
    return tally.outcome


def _run_in_turn(
    runs: Sequence[Run], output: Path, tally: _Tally, should_stop: Callable[[], bool]
) -> None:
    data = TaskData()
    for run in runs:
        ending = execute(
            run,
            output,
            data,
            jobs=1,
            progress=lambda what, done, total, run=run: tally.update(run, what, done, total),
            should_stop=should_stop,
        )
        tally.end(run, ending)
        if ending.is_stopped:
            return


class _Tally:
    """Keeps account of a session's runs, and says what is left."""

    def __init__(self, runs: Sequence[Run], seconds: Mapping[str, float], progress: Progress):
        self.outcome = Outcome()
        self.num_ended = 0
        self._num_runs = len(runs)
        self._seconds = seconds
        self._total = sum(seconds[run.name] for run in runs)
        self._ended = 0.0  # expected seconds of the runs that have ended, ...
        self._parts: dict[str, float] = {}  # ... and of what is done of the others
        self._progress = progress
        self._started = time.monotonic()

    def update(self, run: Run, what: str, done: int, total: int) -> None:
        """A run is so far."""
        if what.startswith("epoch"):
            self._parts[run.name] = self._seconds[run.name] * done / total
        head = f"{self.num_ended} of {self._num_runs} runs"
        at_work = f"{run.name}, {what}" if len(self._parts) <= 1 else f"{len(self._parts)} at work"
        self._progress(f"{head}; {at_work}", round(self._done), max(1, round(self._total)))

    def end(self, run: Run, ending: Ending) -> None:
        """A run has ended, or has stopped."""
        self._parts.pop(run.name, None)
        if ending.is_stopped:
            return
        self.num_ended += 1
        self._ended += self._seconds[run.name]
        if ending.failure is not None:
            self.outcome.failed[run.name] = ending.failure
            logger.error("%s failed: %s", run.name, ending.trace or ending.failure)
        else:
            logger.info("%s: %s%s", run.name, ending.reached, self._left())

    @property
    def _done(self) -> float:
        return self._ended + sum(self._parts.values())

    def _left(self) -> str:
        count = self._num_runs - self.num_ended
        if count == 0:
            return ""
        left = (time.monotonic() - self._started) * (self._total - self._done) / self._done
        return f" ({count} to go, about {format_seconds(left)})"
