"""Running one run of a comparison, in whichever process."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from data_agent._errors import DataAgentError
from data_agent.lab.config import Recipe
from data_agent.lab.data import ImageData
from data_agent.lab.grid import Run
from data_agent.lab.progress import Progress
from data_agent.lab.runs import open_run
from data_agent.lab.tasks import load_task
from data_agent.lab.train import train


@dataclass(frozen=True, kw_only=True, slots=True)
class Ending:
    """How a run ended: with a value, with a failure, or stopped before its end with neither.

    Args:
        value: the metric of the last epoch.
        failure: why it failed, in a line.
        trace: where, if nobody expected it.
    """

    value: float | None = None
    failure: str | None = None
    trace: str | None = None

    @property
    def is_stopped(self) -> bool:
        """Whether the run was asked to stop, and can go on."""
        return self.value is None and self.failure is None


class TaskData:
    """Loads the data of recipes and keeps the last, because runs come task by task."""

    def __init__(self) -> None:
        self._recipe: Recipe | None = None
        self._data: ImageData | None = None

    def of(self, recipe: Recipe, progress: Progress) -> ImageData:
        """The data of a recipe; runs of one task differ by the keep ratio at most."""
        recipe = replace(recipe, keep_ratio=1.0)
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
        images = data.of(run.config.recipe, progress)
        with open_run(output / run.name, run.config.flat(), resume=True) as folder:
            result = train(
                run.config, images, folder, jobs=jobs, progress=progress, should_stop=should_stop
            )
    except Exception as error:  # whatever it is, the other runs go on
        trace = None if isinstance(error, DataAgentError) else traceback.format_exc()
        return Ending(failure=f"{type(error).__name__}: {error}", trace=trace)
    return Ending(value=None if result is None else result["value"])
