"""Run folders made by hand, as image runs and language runs leave them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_agent_lab.results.findings import Cell, Row
from data_agent_lab.results.report import summarise
from data_agent_lab.results.statistics import Estimate
from data_agent_lab.runs.folder import open_run

# accuracy and seconds by method and seed; costs are 1 for full, 0.5 for the others
RUNS = {
    "full": [(90.0, 10.0), (92.0, 20.0)],
    "full-short": [(88.0, 5.0), (91.0, 10.0)],
    "random": [(87.0, 5.0), (91.0, 10.0)],
    "data-agent": [(89.0, 6.0), (93.0, 12.0)],
}
# nats of seed 0; seed 1 ends 0.1 above
LOSSES = {"full": 2.0, "full-short": 2.5, "random": 2.4, "data-agent": 2.2, "top-loss": 2.6}
N, EPOCHS = 100, 60
# Configurations as they lie in the folders: readers know nothing of recipes.
IMAGES: dict[str, Any] = {
    **{"task": "digits", "data": None, "model": "cnn", "epochs": EPOCHS, "batch_size": 64},
    **{"subset": None, "imbalance": None, "duplicates": 0.0, "train_labels": None},
    **{"label_noise": 0.0, "learning_rate": 0.1},
}
LANGUAGE: dict[str, Any] = {
    **{"task": "sft", "kind": "sft", "data": "rows.jsonl", "model": "llama-32x1"},
    **{"epochs": EPOCHS, "batch_size": 8, "learning_rate": 1e-3},
    **{"mmlu": None, "harness_tasks": None, "harness_limit": None},
}


def make_run(
    folder: Path,
    *,
    method: str,
    seed: int,
    value: float = 90.0,
    accuracies: Sequence[float] = (),
    **options: Any,
) -> None:
    """An image run's folder; its evaluations are evenly spread and end with `value`."""
    _make(
        folder,
        {**IMAGES, "method": method, "seed": seed},
        lines=[{"accuracy": accuracy} for accuracy in [*accuracies, value]],
        reached={"metric": "accuracy", "unit": "%", "value": value},
        **options,
    )


def make_language_run(
    folder: Path,
    *,
    method: str,
    seed: int,
    value: float,
    losses: Sequence[float] = (),
    further: Mapping[str, Any] | None = None,
    token_cost: float = 0.55,
    **options: Any,
) -> None:
    """The same of a language run."""
    _make(
        folder,
        {**LANGUAGE, "method": method, "seed": seed},
        lines=[{"loss": loss, "value": loss} for loss in [*losses, value]],
        reached={
            **{"metric": "loss", "unit": "nats", "direction": "lower", "value": value},
            **{"further_metrics": dict(further or {}), "token_cost": token_cost},
        },
        **options,
    )


def _make(
    folder: Path,
    config: dict[str, Any],
    *,
    lines: Sequence[Mapping[str, float]],
    reached: Mapping[str, Any],
    seconds: float = 10.0,
    cost: float = 0.5,
    keep_ratio: float = 0.5,
    jobs: int = 1,
    finished: bool = True,
    **changes: Any,
) -> None:
    config = {**config, "keep_ratio": keep_ratio, **changes}
    method, visits = config["method"], round(cost * N * config["epochs"])
    with open_run(folder, config, resume=False) as run:
        run.begin(config, device="cpu", jobs=jobs)
        for place, line in enumerate(lines, start=1):
            done = visits * place // len(lines)
            run.append_metrics({"step": place, "num_forward": done, "num_backward": done, **line})
        if finished:
            run.finish(
                {
                    **reached,
                    "cost": cost,
                    "train_seconds": seconds,
                    "train_cpu_seconds": seconds / (2 if method == "full" else 1),
                    "overhead_seconds": seconds / 10 if method == "data-agent" else 0.0,
                    "num_train_samples": N,
                    "num_eval_samples": 50,
                    "num_noisy_labels": 0,
                    "evaluation": "split 'test'",
                    "schedule": "exact",
                }
            )


def make_runs(output: Path, *methods: str, seeds: int = 2, **options: Any) -> None:
    """Image runs of these methods, of all in `RUNS` without any."""
    for method in methods or RUNS:
        share = 1.0 if method == "full" else 0.5
        for seed, (value, seconds) in enumerate(RUNS[method][:seeds]):
            make_run(
                output / f"{method}-{seed}",
                method=method,
                seed=seed,
                value=value,
                seconds=seconds,
                **{"cost": share, "keep_ratio": share, **options},
            )


def make_language_runs(output: Path, **options: Any) -> None:
    """Language runs of all methods in `LOSSES`, two seeds each, with MMLU of 25 and 26 %."""
    for method, loss in LOSSES.items():
        share = 1.0 if method == "full" else 0.5
        for seed in (0, 1):
            mmlu = {"value": 25.0 + seed, "unit": "%", "direction": "higher", "num_items": 1570}
            make_language_run(
                output / f"{method}-{seed}",
                method=method,
                seed=seed,
                value=loss + 0.1 * seed,
                **{"cost": share, "keep_ratio": share, "further": {"mmlu": mmlu}, **options},
            )


def make_tasks(folder: Path, table: dict[str, dict[str, list[float]]]) -> None:
    """Image runs of several tasks: accuracies by task, method and seed."""
    for task, methods in table.items():
        for method, values in methods.items():
            for seed, value in enumerate(values):
                path = folder / task / f"{method}{seed}"
                make_run(path, method=method, seed=seed, value=value, task=task)


def cell_of(folder: Path) -> Cell:
    """The only task's only budget."""
    (task,) = summarise(folder).tasks
    (cell,) = task.cells
    return cell


def row_of(cell: Cell, method: str) -> Row:
    """The row of a method, which must be there."""
    row = cell.row(method)
    assert row is not None
    return row


def numbers(value: Estimate | None) -> tuple[float, float | None]:
    """Mean and half-width of an estimate, which must be there."""
    assert value is not None
    return value.mean, value.half_width
