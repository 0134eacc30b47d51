"""What a comparison will take, before it starts: from runs like it, or from a few timed steps."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from data_agent_lab.methods import FULL, expected_cost
from data_agent_lab.progress import Progress, silent
from data_agent_lab.recipes import PromptRecipe, Recipe, RunConfig
from data_agent_lab.runs.folder import RunFolder
from data_agent_lab.tasks import load_task
from data_agent_lab.terminal import format_seconds
from data_agent_lab.training.plan import check_trusted, sizes
from data_agent_lab.training.run import measure_speed


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskDuration:
    """How long the runs of a task take."""

    full: float  # seconds of full training
    evaluation: float  # seconds of all evaluations of a run
    source: str  # where these come from, in words


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """What the runs that are still to do will take."""

    seconds: Mapping[str, float]  # by run, training and evaluation
    durations: Mapping[str, TaskDuration]  # by task
    num_finished: int  # runs that need not be done again
    num_threads: int  # processor cores that a run takes

    def wall_seconds(self, jobs: int) -> float:
        """Until the last run ends, if `jobs` of them train at a time and each begins in order."""
        free_at = [0.0] * jobs
        for seconds in self.seconds.values():
            heapq.heapreplace(free_at, free_at[0] + seconds)
        return max(free_at)

    def in_words(self, jobs: int) -> list[str]:
        """The forecast, line by line."""
        core_hours = self.num_threads * sum(self.seconds.values()) / 3600
        return [
            f"{len(self.seconds)} runs to do, {self.num_finished} finished.",
            *(
                f"{task}: {format_seconds(duration.full)} for full training, "
                f"{format_seconds(duration.evaluation)} to evaluate ({duration.source})."
                for task, duration in self.durations.items()
            ),
            "What it costs to make the scores that some methods start from is known after their "
            "first run.",
            f"Together about {core_hours:.2f} core-hours; "
            f"{format_seconds(self.wall_seconds(jobs))} with {jobs} at a time.",
        ]


def forecast(
    runs: Sequence[RunConfig[Any]],
    pending: Sequence[RunConfig[Any]],
    output: Path,
    *,
    progress: Progress = silent,
) -> Forecast:
    """Estimate what the `pending` ones of a comparison's runs in the folder `output` take.

    A task with finished runs of the same recipe goes by these; of another some steps of training
    and a batch of evaluation are timed, which takes a second or two besides loading its data.

    Raises:
        InputError: data that cannot be used, or methods without room for trusted rows.
    """
    done = [
        (run, folder.result())
        for run in runs
        if (folder := RunFolder(output / run.name)).status(run.flat()) == "finished"
    ]
    durations: dict[str, TaskDuration] = {}
    for recipe in {run.recipe.task: run.recipe for run in pending}.values():
        own = [run for run in pending if run.recipe == recipe]
        if results := [result for run, result in done if run.recipe == recipe]:
            last = results[-1]
            check_trusted(own, last["num_train_samples"], last["num_trusted_rows"])
            durations[recipe.task] = _known(results)
        else:
            data = load_task(recipe, progress)
            check_trusted(own, *sizes(recipe, data))
            durations[recipe.task] = timed(recipe, data)
    seconds: dict[str, float] = {}
    for run in pending:
        duration = durations[run.recipe.task]
        seconds[run.name] = duration.full * _cost(run, done) + duration.evaluation
    return Forecast(
        seconds=seconds,
        durations=durations,
        num_finished=len(runs) - len(pending),
        num_threads=max(run.recipe.num_threads or 1 for run in pending),
    )


def _known(results: Sequence[Mapping[str, Any]]) -> TaskDuration:
    trained = sum(result["train_seconds"] for result in results)
    return TaskDuration(
        full=trained / sum(result["cost"] for result in results),
        evaluation=fmean(result["eval_seconds"] for result in results),
        source=f"of {len(results)} finished runs",
    )


def timed(recipe: Recipe, samples: Any) -> TaskDuration:
    """How long full training and evaluation of loaded data take, by a second of each."""
    speed = measure_speed(recipe, samples)
    is_prompts = isinstance(recipe, PromptRecipe)
    num_samples = recipe.num_completions if is_prompts else samples.num_train
    num_evaluations = min(recipe.num_evaluations, recipe.epochs)
    return TaskDuration(
        full=speed.train_sample * num_samples * recipe.epochs,
        evaluation=speed.eval_sample * samples.num_eval * num_evaluations,
        source="timed now",
    )


def _cost(run: RunConfig[Any], done: Sequence[tuple[RunConfig[Any], Mapping[str, Any]]]) -> float:
    """The cost of finished runs that differ in their seed only, or what is known without any."""
    alike = (run.recipe, run.method, run.keep_ratio)
    costs = [r["cost"] for o, r in done if (o.recipe, o.method, o.keep_ratio) == alike]
    if costs and run.method != FULL:
        return fmean(costs)
    if isinstance(run.recipe, PromptRecipe):
        return 1.0
    return expected_cost(run.method, run.keep_ratio, epochs=run.recipe.epochs)
