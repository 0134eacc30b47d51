from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data_agent import DataAgentError
from data_agent_lab.comparing import forecast as forecast_module
from data_agent_lab.comparing.forecast import Forecast, forecast
from data_agent_lab.comparing.grid import all_runs
from data_agent_lab.methods import expected_cost
from data_agent_lab.recipes import RunConfig
from data_agent_lab.runs.folder import open_run
from data_agent_lab.tasks import recipe_for
from data_agent_lab.training.run import Speed

RECIPE = replace(recipe_for("digits"), epochs=10, num_evaluations=4, num_threads=2)


METHODS = ("full", "full-short", "random", "selective-backprop")


def runs_of(*methods: str, seeds: Sequence[int] = (0,)) -> list[RunConfig[Any]]:
    return all_runs([RECIPE], methods=methods or METHODS, keep_ratios=[0.5], seeds=seeds)


def finish(output: Path, method: str, seconds: float, cost: float) -> None:
    (run,) = runs_of(method)
    with open_run(output / run.name, run.flat(), resume=False) as folder:
        folder.begin(run.flat(), device="cpu")
        sizes = {"num_train_samples": 448, "num_trusted_rows": 0}
        folder.finish({"train_seconds": seconds, "eval_seconds": 3.0, "cost": cost, **sizes})


def test_without_finished_runs_steps_are_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forecast_module, "measure_speed", lambda *_: Speed(0.01, 0.001))
    found = forecast(runs_of(), runs_of(), tmp_path)
    # 448 samples, 10 epochs: 44.8 s; 1,349 evaluation samples, 4 times: 5.396 s
    assert found.durations["digits"].full == pytest.approx(44.8)
    assert found.seconds["digits/full-seed0"] == pytest.approx(44.8 + 5.396)
    assert found.seconds["digits/random-keep0.5-seed0"] == pytest.approx(22.4 + 5.396)
    batch = found.seconds["digits/selective-backprop-keep0.5-seed0"]
    assert batch == pytest.approx(44.8 * (1 / 3 + 0.5) + 5.396)
    assert found.num_finished == 0


def test_finished_runs_of_the_recipe_are_the_better_guide(tmp_path: Path) -> None:
    finish(tmp_path, "full", 80.0, 1.0)
    finish(tmp_path, "random", 40.0, 0.5)
    pending = [run for run in runs_of() if "short" in run.name or "back" in run.name]
    found = forecast(runs_of(), pending, tmp_path)
    # 120 s for one and a half units of cost, and 3 s of evaluation
    assert found.durations["digits"].full == pytest.approx(80.0)
    assert found.seconds["digits/full-short-keep0.5-seed0"] == pytest.approx(43.0)
    assert found.num_finished == 2
    assert "2 finished" in found.in_words(1)[0]
    assert "of 2 finished runs" in found.in_words(1)[1]


def test_methods_without_room_for_trusted_rows_are_refused_beside_finished_runs_too(
    tmp_path: Path,
) -> None:
    recipe = replace(RECIPE, trusted_rows=100)
    runs = all_runs([recipe], methods=("full", "divbs"), keep_ratios=[0.5, 0.4], seeds=[0, 1])
    with open_run(tmp_path / runs[0].name, runs[0].flat(), resume=False) as folder:
        folder.begin(runs[0].flat(), device="cpu")
        sizes = {"num_train_samples": 448, "num_trusted_rows": 100}
        folder.finish({"train_seconds": 9.0, "eval_seconds": 3.0, "cost": 1.0, **sizes})
    with pytest.raises(DataAgentError, match="divbs chooses inside each batch") as refused:
        forecast(runs, runs[1:], tmp_path)
    assert str(refused.value).count("cannot be trained with --trusted-rows 100") == 1


def test_the_cost_of_finished_runs_replaces_what_is_expected(tmp_path: Path) -> None:
    runs = runs_of("el2n", seeds=(0, 1))
    finish(tmp_path, "el2n", 70.0, 0.7)  # scores included
    found = forecast(runs, runs[1:], tmp_path)
    assert found.seconds["digits/el2n-keep0.5-seed1"] == pytest.approx(73.0)


def test_hours_count_cores_and_the_clock_counts_processes() -> None:
    seconds = {"a": 600.0, "b": 1200.0, "c": 1800.0}
    found = Forecast(seconds=seconds, durations={}, num_finished=0, num_threads=2)
    assert found.wall_seconds(1) == 3600
    # a ends at 600, where c begins; b ends at 1200, c at 2400
    assert found.wall_seconds(2) == 2400
    assert "about 2.00 core-hours; 40 min 00 s with 2 at a time" in found.in_words(2)[-1]


def test_real_steps_are_timed_in_a_moment(tmp_path: Path) -> None:
    found = forecast(runs_of(), runs_of(), tmp_path)
    assert 0 < found.seconds["digits/random-keep0.5-seed0"] < found.seconds["digits/full-seed0"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("method", "cost"),
    [
        ("full", 1.0),
        ("full-short", 0.3),
        ("random", 0.3),
        ("selective-backprop", 1 / 3 + 0.3),
        ("infobatch-published", 1.0),  # at most
        ("afss", 0.3 + 4 / (3 * 20)),  # looks at all samples before epochs 3, 8, 13 and 18
        ("el2n", 0.3),  # and its scores
    ],
)
def test_costs_that_are_known_before(method: str, cost: float) -> None:
    assert expected_cost(method, 0.3, epochs=20) == pytest.approx(cost)
