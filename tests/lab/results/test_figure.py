"""Figures of hand-made run folders: what their axes show and say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from run_folders import cell_of, make_language_run, make_language_runs, make_run, make_runs

from data_agent_lab.results.figure import _draw_cell, _draw_frontier, draw
from data_agent_lab.results.report import summarise


def test_axes_name_the_metric_and_say_where_lower_is_better(tmp_path: Path) -> None:
    make_runs(tmp_path / "a")
    make_language_runs(tmp_path / "b")
    (images,), (language,) = (_draw_cell(cell_of(tmp_path / name)).axes for name in "ab")
    assert images.get_xlabel() == "accuracy of the last epoch, %"
    assert language.get_xlabel() == "loss of the last epoch, nats (lower is better)"


def test_sequences_are_drawn_over_their_cost_in_tokens(tmp_path: Path) -> None:
    for task, share in (("sft", 0.8), ("lm", 0.9)):
        path = tmp_path / task
        make_language_run(path, method="ucb", seed=0, value=2.0, token_cost=share, task=task)
    make_run(tmp_path / "images", method="ucb", seed=0, cost=0.5)
    labels, places = [], []
    for task in summarise(tmp_path).tasks:
        (axes,) = _draw_frontier(task).axes
        labels.append(axes.get_xlabel().split(",")[0])
        places.append(np.asarray(axes.lines[0].get_xdata())[0])
    assert labels == ["cost", "cost in tokens", "cost in tokens"]
    assert places == pytest.approx([50.0, 90.0, 80.0])


def test_methods_of_equal_cost_are_drawn_at_that_cost(tmp_path: Path) -> None:
    make_runs(tmp_path)
    (task,) = summarise(tmp_path).tasks
    (axes,) = _draw_frontier(task).axes
    points = [bars[0].get_xdata() for bars in axes.containers]
    assert np.ravel(points).tolist() == pytest.approx([50.0, 50.0, 50.0])


@pytest.mark.parametrize("spread", [0.0, 0.001, 0.5])
def test_every_seed_is_inside_and_close_values_fill_the_axis(tmp_path: Path, spread: float) -> None:
    for seed, value in enumerate((2.0, 2.0 + spread)):
        make_language_run(tmp_path / str(seed), method="ucb", seed=seed, value=value)
    (axes,) = _draw_cell(cell_of(tmp_path)).axes
    left, right = axes.get_xlim()
    assert left < 2.0 <= 2.0 + spread < right
    assert right - left <= 1.6 * spread + 0.02


def test_image_and_language_tasks_are_drawn_side_by_side(tmp_path: Path) -> None:
    make_runs(tmp_path / "images")
    make_language_runs(tmp_path / "sft")
    draw(summarise(tmp_path), tmp_path / "figures")
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        *("digits-frontier.png", "digits-keep0.5.png", "sft-frontier.png", "sft-keep0.5.png")
    }
