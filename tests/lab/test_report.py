from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data_agent import DataAgentError
from data_agent.lab.compare import format_seconds, run_path
from data_agent.lab.config import CompareConfig
from data_agent.lab.figure import draw
from data_agent.lab.report import (
    format_estimate,
    reading_notes,
    summarise,
    table_cells,
    to_markdown,
    write_report,
)
from data_agent.lab.runs import RunFolder, open_run
from data_agent.lab.statistics import Estimate
from data_agent.lab.tasks import recipe_for

# accuracy and seconds by method and seed; costs are 1 for full, 0.5 for the others
RUNS = {
    "full": [(90.0, 10.0), (92.0, 20.0)],
    "full-short": [(88.0, 5.0), (91.0, 10.0)],
    "data-agent": [(89.0, 6.0), (93.0, 12.0)],
}


def result_of(method: str, accuracy: float, seconds: float) -> dict[str, Any]:
    return {
        "value": accuracy,
        "cost": 1.0 if method == "full" else 0.5,
        "train_seconds": seconds,
        "overhead_seconds": seconds / 10 if method == "data-agent" else 0.0,
        "num_train_samples": 100,
        "num_eval_samples": 50,
        "num_noisy_labels": 0,
        "evaluation": "split 'test'",
    }


def make_runs(
    output: Path, methods: str = "full,full-short,data-agent", seeds: int = 2
) -> CompareConfig:
    config = CompareConfig(recipe=recipe_for("digits"), methods=methods, seeds=seeds)
    for run in config.runs():
        with open_run(run_path(output, run), run.flat(), resume=False) as folder:
            folder.begin(run.flat(), device="cpu")
            folder.finish(result_of(run.method, *RUNS[run.method][run.seed]))
    return config


def test_rows_by_hand(tmp_path: Path) -> None:
    full, short, agent = summarise(make_runs(tmp_path), tmp_path).rows
    assert (full.value.mean, short.value.mean, agent.value.mean) == (91.0, 89.5, 91.0)
    # t(0.975, 1) = 12.7062; differences of the agent to full are -1 and +1, to the control 1 and 2
    assert agent.to_full is not None
    assert (agent.to_full.mean, agent.to_full.half_width) == pytest.approx((0.0, 12.7062), abs=1e-3)
    assert agent.to_full_short is not None
    assert agent.to_full_short.mean == 1.5
    assert agent.to_full_short.half_width == pytest.approx(12.7062 / 2, abs=1e-3)
    assert (full.to_full, short.to_full_short) == (None, None)
    # 6/10 and 12/20 of full training's time with the same seed
    assert agent.wall_clock is not None
    assert (agent.wall_clock.mean, agent.wall_clock.half_width) == pytest.approx((0.6, 0.0))
    assert (agent.cost, agent.overhead) == pytest.approx((0.5, 0.1))
    assert agent.by_seed == {0: 89.0, 1: 93.0}


def test_cells_show_means_with_intervals_and_signed_differences(tmp_path: Path) -> None:
    rows = summarise(make_runs(tmp_path), tmp_path).rows
    assert table_cells(rows[2]) == [
        "data-agent",
        "91.00 +- 25.41",
        "+0.00 +- 12.71",
        "+1.50 +- 6.35",
        "50.0",
        "0.60 +- 0.00",
        "10.0",
        "2",
    ]
    assert table_cells(rows[0])[2] == "-"


def test_one_seed_has_no_interval_and_the_report_says_so(tmp_path: Path) -> None:
    comparison = summarise(make_runs(tmp_path, seeds=1), tmp_path)
    assert table_cells(comparison.rows[1])[1:4] == ["88.00", "-2.00", "-"]
    assert "One seed has no interval" in to_markdown(comparison)


def test_without_full_there_is_nothing_to_compare_with(tmp_path: Path) -> None:
    (row,) = summarise(make_runs(tmp_path, methods="data-agent"), tmp_path).rows
    assert table_cells(row)[2:6] == ["-", "-", "50.0", "-"]


def test_unfinished_runs_are_left_out(tmp_path: Path) -> None:
    config = make_runs(tmp_path)
    (tmp_path / "data-agent-seed1" / "result.json").unlink()
    agent = summarise(config, tmp_path).rows[2]
    assert (agent.value.count, agent.value.half_width) == (1, None)
    assert agent.to_full is not None
    assert agent.to_full.mean == -1.0


def test_no_finished_run_is_an_error(tmp_path: Path) -> None:
    config = CompareConfig(recipe=recipe_for("digits"))
    with pytest.raises(DataAgentError, match="none of the runs in"):
        summarise(config, tmp_path)


def test_runs_of_another_recipe_are_refused(tmp_path: Path) -> None:
    config = make_runs(tmp_path)
    other = replace(config, recipe=replace(config.recipe, epochs=7))
    with pytest.raises(DataAgentError, match="epochs 60 there, 7 now"):
        summarise(other, tmp_path)


def test_the_report_is_written_with_all_numbers(tmp_path: Path) -> None:
    comparison = summarise(make_runs(tmp_path), tmp_path)
    write_report(comparison, tmp_path)
    draw(comparison, tmp_path / "comparison.png")
    content = json.loads((tmp_path / "comparison.json").read_text())
    assert content["config"]["methods"] == ["full", "full-short", "data-agent"]
    assert content["rows"][0]["by_seed"] == {"0": 90.0, "1": 92.0}
    assert set(content["results"]) == {f"{method}-seed{seed}" for method in RUNS for seed in (0, 1)}
    text = (tmp_path / "comparison.md").read_text()
    assert "| data-agent | 91.00 +- 25.41 |" in text
    assert "| command |" in text
    assert "| processor |" in text
    assert (tmp_path / "comparison.png").read_bytes().startswith(b"\x89PNG")


def test_different_machines_are_pointed_out(tmp_path: Path) -> None:
    config = make_runs(tmp_path)
    assert not any("machines" in note for note in reading_notes(summarise(config, tmp_path)))
    path = RunFolder(tmp_path / "full-seed0").path / "environment.json"
    content = json.loads(path.read_text())
    content["sessions"][0]["cpu"] = "another"
    path.write_text(json.dumps(content))
    assert any("different machines" in note for note in reading_notes(summarise(config, tmp_path)))


def test_numbers_as_text() -> None:
    assert format_estimate(Estimate(1.234, 0.5, 3)) == "1.23 +- 0.50"
    assert format_estimate(Estimate(1.234, None, 1), sign=True) == "+1.23"
    assert format_estimate(None) == "-"
    assert [format_seconds(s) for s in (9.4, 61, 3725)] == ["9 s", "1 min 01 s", "1 h 02 min"]
