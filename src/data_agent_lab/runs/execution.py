"""One run of a comparison, in whichever process, and how it ended."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_agent.errors import DataAgentError
from data_agent_lab.progress import Progress
from data_agent_lab.recipes import Recipe, RunConfig
from data_agent_lab.results.records import reached_in_words
from data_agent_lab.runs.folder import open_run
from data_agent_lab.tasks import Samples, load_task
from data_agent_lab.training.loops import train_run


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOutcome:
    """What became of a run: a result, a failure, or neither, when it was stopped or never begun.

    Args:
        reached: the metric of the last epoch, in words.
        failure: why it failed, in a line.
        trace: where, if the failure was not one of the library's own errors.
    """

    reached: str | None = None
    failure: str | None = None
    trace: str | None = None

    @property
    def is_stopped(self) -> bool:
        """Whether the run can go on."""
        return self.reached is None and self.failure is None


class LoadedData:
    """The data of the last recipe that was asked for; runs come task by task."""

    def __init__(self) -> None:
        self._recipe: Recipe | None = None
        self._samples: Samples | None = None

    def of(self, recipe: Recipe, progress: Progress) -> Samples:
        """The data of a recipe."""
        if self._samples is None or recipe != self._recipe:
            self._samples = None  # one data set in memory at a time
            self._samples = load_task(recipe, progress)
            self._recipe = recipe
        return self._samples


def execute(
    run: RunConfig[Any],
    output: Path,
    data: LoadedData,
    *,
    jobs: int,
    progress: Progress,
    should_stop: Callable[[], bool],
) -> RunOutcome:
    """Train a run, begun before or not, to its end, to a request to stop, or to a failure.

    Args:
        run: the run.
        output: the comparison's folder.
        data: gives the data of its task.
        jobs: how many runs train at the same time.
        progress: told about every batch.
        should_stop: asked after every optimizer step.
    """
    try:
        samples = data.of(run.recipe, progress)
        with open_run(output / run.name, run.flat(), resume=True) as folder:
            result = train_run(
                run, samples, folder, jobs=jobs, progress=progress, should_stop=should_stop
            )
    except Exception as error:  # whatever it is, the other runs go on
        trace = None if isinstance(error, DataAgentError) else traceback.format_exc()
        return RunOutcome(failure=f"{type(error).__name__}: {error}", trace=trace)
    return RunOutcome(reached=None if result is None else reached_in_words(result))
