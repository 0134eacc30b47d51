"""A pilot: the methods that could be advised, trained in short on a part of the data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_agent.labels import LabelRules
from data_agent_lab.methods import FULL_SHORT, RANDOM
from data_agent_lab.planning.advice import LABEL_AWARE, Pilot
from data_agent_lab.progress import Progress, never, silent
from data_agent_lab.recipes import Recipe, RunConfig, TextRecipe
from data_agent_lab.runs.folder import open_run
from data_agent_lab.runs.result import metric_of
from data_agent_lab.runs.samples import SAMPLES, read_columns
from data_agent_lab.training.run import train_run

COST = 0.25  # of full training, all runs of the pilot together
SEEDS = (0, 1)
_EPOCHS = 8  # at least, as far as the run has as many: fewer leave nothing to choose
_STEPS = 20  # of an epoch, at least, as far as batches can be made smaller
_LEAST_BATCH = 16
_PART_SEED = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class PilotResult:
    """What a pilot found and cost."""

    values: Pilot  # negative where lower is better
    doubted: float | None  # share of labels that label rules doubt; None where they cannot
    cost: float  # share of full training


def methods_of(data: Any) -> list[str]:
    """What a pilot trains: both controls, label rules where there are labels, and the policy."""
    return [FULL_SHORT, RANDOM, *([LABEL_AWARE] if data.class_names else []), "data-agent"]


def shortened(recipe: Recipe, data: Any, *, keep_ratio: float, runs: int) -> tuple[Recipe, Any]:
    """The recipe and the data of a pilot of so many runs, which together cost `COST`.

    Fewer samples, the same for all and as many of them trusted in proportion, and fewer epochs.
    Where an epoch would have few steps, batches are smaller, and the learning rate in proportion
    (Goyal et al. 2017).
    """
    num_samples, epochs = data.num_train, min(recipe.epochs, _EPOCHS)
    visits = COST * num_samples * recipe.epochs / (runs * keep_ratio)  # of all samples, in a run
    count = max(1, min(num_samples, round(visits / epochs)))
    epochs = max(epochs, min(recipe.epochs, int(visits / count)))
    batch = min(recipe.batch_size, max(_LEAST_BATCH, round(keep_ratio * count / _STEPS)))
    num_trusted = _in_proportion(data.num_trusted, count, num_samples)
    order = torch.randperm(num_samples, generator=torch.Generator().manual_seed(_PART_SEED))
    is_behind = order >= num_samples - data.num_trusted
    rows = [order[~is_behind][: count - num_trusted], order[is_behind][:num_trusted]]
    short = replace(
        recipe,
        epochs=epochs,
        batch_size=batch,
        learning_rate=recipe.learning_rate * batch / recipe.batch_size,
        trusted_rows=_in_proportion(recipe.trusted_rows, count, num_samples),
        keep_index=None,  # the data are those that it keeps
        num_evaluations=1,
    )
    return short, _part(recipe, data, torch.cat(rows).sort().values)


def _in_proportion(num_trusted: int, count: int, num_samples: int) -> int:
    """Of the trusted samples those of a part; no more, so that they leave as much room."""
    return min(num_trusted, max(1, num_trusted * count // num_samples))


def _part(recipe: Recipe, data: Any, rows: Tensor) -> Any:
    """These samples alone, int64 `[M]` ascending; `at` keeps trusted ones that come last."""
    last = data.num_train - data.num_trusted
    behind = rows[rows >= last] - last
    if not isinstance(recipe, TextRecipe):
        return replace(replace(data, num_trusted=0).at(rows), num_trusted=len(behind))
    trusted = None if data.trusted is None else data.trusted.select(behind.tolist())
    return replace(data.at(rows.numpy()), trusted=trusted)


def run_pilot(
    config: RunConfig[Any],
    data: Any,
    *,
    progress: Progress = silent,
    should_stop: Callable[[], bool] = never,
) -> PilotResult:
    """Train every method of a pilot with every seed; it owns the process, as `train_run` does.

    Args:
        config: the run that is planned.
        data: what `tasks.load_kept` gave for its recipe.
        progress: told how far each run is.
        should_stop: asked after every step.

    Raises:
        KeyboardInterrupt: it was asked to stop.
        DataAgentError: as `train_run`.
    """
    methods = methods_of(data)
    runs = [(method, seed) for seed in SEEDS for method in methods]
    recipe, part = shortened(config.recipe, data, keep_ratio=config.keep_ratio, runs=len(runs))
    values: dict[str, dict[int, float]] = {method: {} for method in methods}
    doubted: list[float] = []
    visits = 0.0
    for method, seed in runs:
        run = RunConfig(recipe=recipe, method=method, keep_ratio=config.keep_ratio, seed=seed)
        with (
            TemporaryDirectory() as path,
            open_run(Path(path), run.flat(), resume=False) as folder,
        ):
            result = train_run(run, part, folder, progress=progress, should_stop=should_stop)
            if result is None:
                raise KeyboardInterrupt
            if method == LABEL_AWARE:
                doubted.append(_doubted(folder.path / SAMPLES))
        values[method][seed] = metric_of(result).sign * result["value"]
        visits += result["cost"] * part.num_train * recipe.epochs
    has_enough = len(data.class_names) >= LabelRules().fewest_classes
    return PilotResult(
        values=values,
        doubted=float(np.mean(doubted)) if doubted and has_enough else None,
        cost=visits / (data.num_train * config.recipe.epochs),
    )


def _doubted(samples: Path) -> float:
    columns, _ = read_columns(samples)
    return float(np.mean(columns["suspected"]))
