"""What a comparison will take, before it starts: from runs like it, or from a few timed steps."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_agent_lab.recipes import Recipe
from data_agent_lab.runs.execution import TaskData
from data_agent_lab.grid import Grid, Run
from data_agent_lab.training.loops import speed_of
from data_agent_lab.methods import FULL, expected_cost
from data_agent_lab.progress import Progress, silent
from data_agent_lab.runs.folder import RunFolder
from data_agent_lab.terminal import format_seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """How long the runs of a task take.

    Args:
        full: seconds of full training.
        evaluation: seconds of all evaluations of a run.
        source: where these come from, in words.
    """

    full: float
    evaluation: float
    source: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """What the runs that are still to do will take.

    Args:
        seconds: by run, training and evaluation.
        paces: by task.
        costs: by method and then keep ratio, a run's cost as a share of full training.
        num_finished: runs that need not be done again.
        num_threads: processor cores that a run takes.
    """

    seconds: Mapping[str, float]
    paces: Mapping[str, Pace]
    costs: Mapping[str, Mapping[float, float]]
    num_finished: int
    num_threads: int

    @property
    def core_hours(self) -> float:
        """Processor time of all runs, in hours."""
        return self.num_threads * sum(self.seconds.values()) / 3600

    def wall_seconds(self, jobs: int) -> float:
        """Until the last run ends, if `jobs` of them train at a time and each begins in order."""
        free_at = [0.0] * jobs
        for seconds in self.seconds.values():
            heapq.heapreplace(free_at, free_at[0] + seconds)
        return max(free_at)

    def in_words(self, jobs: int) -> list[str]:
        """The forecast, line by line."""
        costs = [f"{method} {_alternatives(ratios)}" for method, ratios in self.costs.items()]
        return [
            f"{len(self.seconds)} runs to do, {self.num_finished} finished.",
            *(
                f"{task}: {format_seconds(pace.full)} for full training, "
                f"{format_seconds(pace.evaluation)} to evaluate ({pace.source})."
                for task, pace in self.paces.items()
            ),
            f"Cost of a run, as a share of full training: {', '.join(costs)}. What it costs to "
            "make the scores that some methods start from is known after their first run.",
            f"Together about {self.core_hours:.2f} core-hours; "
            f"{format_seconds(self.wall_seconds(jobs))} with {jobs} at a time.",
        ]


def forecast(
    grid: Grid, pending: Sequence[Run], output: Path, *, progress: Progress = silent
) -> Forecast:
    """Estimate what the pending runs of a comparison take.

    A task with finished runs of the same recipe goes by these; of another some steps of training
    and a batch of evaluation are timed, which takes a second or two besides loading its data.

    Args:
        grid: the comparison.
        pending: its runs that are still to do, at least one.
        output: its folder.
        progress: told about the loading of data.
    """
    done = _finished(grid, output)
    data = TaskData()
    paces = {
        task: _known_pace(done, task) or _measured_pace(grid.recipes[task], data, progress)
        for task in dict.fromkeys(run.task for run in pending)
    }
    costs = {run.name: _cost(run, done) for run in pending}
    by_method: dict[str, dict[float, float]] = {}
    for run in pending:
        ratio = run.config.keep_ratio
        by_method.setdefault(run.config.method, {}).setdefault(ratio, costs[run.name])
    return Forecast(
        seconds={
            run.name: paces[run.task].full * costs[run.name] + paces[run.task].evaluation
            for run in pending
        },
        paces=paces,
        costs=by_method,
        num_finished=len(grid.runs()) - len(pending),
        num_threads=max(recipe.num_threads or 1 for recipe in grid.recipes.values()),
    )


_Done = Sequence[tuple[Run, Mapping[str, Any]]]


def _finished(grid: Grid, output: Path) -> _Done:
    """The runs of the comparison that are finished, with their results."""
    return [
        (run, folder.result())
        for run in grid.runs()
        if (folder := RunFolder(output / run.name)).status(run.config.flat()) == "finished"
    ]


def _known_pace(done: _Done, task: str) -> Pace | None:
    results = [result for run, result in done if run.task == task]
    if not results:
        return None
    trained = sum(result["train_seconds"] for result in results)
    return Pace(
        full=trained / sum(result["cost"] for result in results),
        evaluation=sum(result["eval_seconds"] for result in results) / len(results),
        source=f"of {len(results)} finished runs",
    )


def _measured_pace(recipe: Recipe, data: TaskData, progress: Progress) -> Pace:
    samples = data.of(recipe, progress)
    speed = speed_of(recipe, samples)
    num_evaluations = min(recipe.num_evaluations, recipe.epochs)
    return Pace(
        full=speed.train_sample * samples.num_train * recipe.epochs,
        evaluation=speed.eval_sample * samples.num_eval * num_evaluations,
        source="timed now",
    )


def _cost(run: Run, done: _Done) -> float:
    """The cost of runs of the same method and budget, or what is known without any."""
    method, recipe = run.config.method, run.config.recipe
    costs = [
        result["cost"]
        for other, result in done
        if other.config.method == method
        and other.config.keep_ratio == run.config.keep_ratio
        and other.task == run.task
    ]
    if method != FULL and costs:
        return sum(costs) / len(costs)
    return expected_cost(method, run.config.keep_ratio, epochs=recipe.epochs)


def _alternatives(values: Mapping[float, float]) -> str:
    return "/".join(f"{value:.2g}" for value in values.values())
