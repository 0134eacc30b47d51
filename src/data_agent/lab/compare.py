"""Running a comparison: every method with every seed, one after the other in this process."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from data_agent._errors import DataAgentError
from data_agent.lab.config import CompareConfig, TrainConfig
from data_agent.lab.data import ImageData
from data_agent.lab.methods import FULL
from data_agent.lab.progress import Progress, silent
from data_agent.lab.runs import RunFolder, check_resumable, open_run
from data_agent.lab.train import never, train

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


def run_path(output: Path, config: TrainConfig) -> Path:
    """The folder of one run of a comparison."""
    return output / f"{config.method}-seed{config.seed}"


def pending_runs(config: CompareConfig, output: Path, *, resume: bool) -> list[TrainConfig]:
    """The runs that are still to do, in order; finished ones are not done again.

    Args:
        config: the comparison.
        output: its folder; need not exist.
        resume: go on with unfinished runs.

    Raises:
        InputError: a run's folder holds something else or another configuration, or an unfinished
            run without `resume`. Nothing has been started then.
    """
    pending: list[TrainConfig] = []
    for run in config.runs():
        path = run_path(output, run)
        status = RunFolder(path).status(run.flat())
        if status == "finished":
            continue
        check_resumable(path, status, resume=resume)
        pending.append(run)
    return pending


def run_all(
    runs: Sequence[TrainConfig],
    data: ImageData,
    output: Path,
    *,
    progress: Progress = silent,
    should_stop: Callable[[], bool] = never,
) -> Outcome:
    """Train the runs one after the other, so that each has the machine to itself.

    A run that fails is logged and the others go on.

    Args:
        runs: as `pending_runs` gave them.
        data: the data of their recipe.
        output: the comparison's folder.
        progress: told about every batch.
        should_stop: asked after every optimizer step.
    """
    outcome = Outcome()
    started = time.monotonic()
    for number, run in enumerate(runs, start=1):
        name = run_path(output, run).name

        def report(what: str, done: int, total: int, *, name: str = name) -> None:
            progress(f"{name}, {what}", done, total)

        try:
            with open_run(run_path(output, run), run.flat(), resume=True) as folder:
                result = train(run, data, folder, progress=report, should_stop=should_stop)
        except Exception as error:
            outcome.failed[name] = f"{type(error).__name__}: {error}"
            logger.error(
                "%s failed: %s", name, error, exc_info=not isinstance(error, DataAgentError)
            )
            continue
        if result is None:
            outcome.is_stopped = True
            return outcome
        left = _time_left(runs[:number], runs[number:], time.monotonic() - started)
        logger.info("%s: %.2f %%%s", name, result["value"], left)
    return outcome


def _time_left(done: Sequence[TrainConfig], todo: Sequence[TrainConfig], seconds: float) -> str:
    """A guess from what the runs so far took, by their share of full training."""
    if not todo:
        return ""
    left = seconds * sum(map(_share, todo)) / sum(map(_share, done))
    return f" ({len(todo)} to go, about {format_seconds(left)})"


def _share(run: TrainConfig) -> float:
    return 1.0 if run.method == FULL else run.recipe.keep_ratio


def format_seconds(seconds: float) -> str:
    """A duration for people: 48 s, 3 min 20 s, 2 h 05 min."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
