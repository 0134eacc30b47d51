"""Running one run of a comparison, in whichever process."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from data_agent.errors import DataAgentError
from data_agent_lab.recipes import Recipe
from data_agent_lab.grid import Run
from data_agent_lab.training.loops import train_run
from data_agent_lab.progress import Progress
from data_agent_lab.results.records import reached_in_words
from data_agent_lab.runs.folder import open_run
from data_agent_lab.tasks import Samples, load_task


@dataclass(frozen=True, kw_only=True, slots=True)
class Ending:
    """How a run ended: with a result, with a failure, or stopped before its end with neither.

    Args:
        reached: the metric of the last epoch, in words.
        failure: why it failed, in a line.
        trace: where, if nobody expected it.
    """

    reached: str | None = None
    failure: str | None = None
    trace: str | None = None

    @property
    def is_stopped(self) -> bool:
        """Whether the run was asked to stop, and can go on."""
        return self.reached is None and self.failure is None


class TaskData:
    """Loads the data of recipes and keeps the last, because runs come task by task."""

    def __init__(self) -> None:
        self._recipe: Recipe | None = None
        self._data: Samples | None = None

    def of(self, recipe: Recipe, progress: Progress) -> Samples:
        """The data of a recipe."""
        if self._data is None or recipe != self._recipe:
            self._data = None  # one data set in memory at a time
            self._data = load_task(recipe, progress)
            self._recipe = recipe
        return self._data


def execute(
    run: Run,
    output: Path,
    data: TaskData,
    *,
    jobs: int,
    progress: Progress,
    should_stop: Callable[[], bool],
) -> Ending:
    """Train a run to its end, to a request to stop, or to a failure.

    Args:
        run: the run; begun before or not.
        output: the comparison's folder.
        data: gives the data of its task.
        jobs: how many runs train at the same time.
        progress: told about every batch.
        should_stop: asked after every optimizer step.
    """
    try:
        samples = data.of(run.config.recipe, progress)
        with open_run(output / run.name, run.config.flat(), resume=True) as folder:
            result = train_run(
                run.config, samples, folder, jobs=jobs, progress=progress, should_stop=should_stop
            )
    except Exception as error:  # whatever it is, the other runs go on
        trace = None if isinstance(error, DataAgentError) else traceback.format_exc()
        return Ending(failure=f"{type(error).__name__}: {error}", trace=trace)
    return Ending(reached=None if result is None else reached_in_words(result))
