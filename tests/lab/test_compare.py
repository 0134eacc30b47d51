from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data_agent import DataAgentError
from data_agent.lab import compare as compare_module
from data_agent.lab.compare import pending_runs, run_all, run_path
from data_agent.lab.config import CompareConfig, TrainConfig
from data_agent.lab.data import ImageData
from data_agent.lab.runs import RunFolder, open_run
from data_agent.lab.tasks import load_task, recipe_for


@pytest.fixture(scope="module")
def data() -> ImageData:
    return load_task(recipe_for("digits"))


@pytest.fixture
def config() -> CompareConfig:
    return CompareConfig(recipe=recipe_for("digits"), methods="full,random", seeds=2)


def names(runs: list[TrainConfig]) -> list[str]:
    return [f"{run.method}{run.seed}" for run in runs]


def begin(output: Path, run: TrainConfig, *, finished: bool) -> None:
    with open_run(run_path(output, run), run.flat(), resume=False) as folder:
        folder.begin(run.flat(), device="cpu")
        if finished:
            folder.finish({"value": 0.0})


class FakeTraining:
    """Stands in for `train`: takes a second per unit of cost and does what it is told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.ran: list[str] = []
        self.outcomes: dict[str, Any] = {}
        monkeypatch.setattr(compare_module, "train", self)
        monkeypatch.setattr(compare_module.time, "monotonic", lambda: self.now)

    def __call__(self, run: TrainConfig, data: ImageData, folder: RunFolder, **_: Any) -> Any:
        name = folder.path.name
        self.ran.append(name)
        self.now += 100 if run.method == "full" else 50
        outcome = self.outcomes.get(name, {"value": 90.0})
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> FakeTraining:
    return FakeTraining(monkeypatch)


def test_finished_runs_are_not_pending(tmp_path: Path, config: CompareConfig) -> None:
    assert names(pending_runs(config, tmp_path, resume=False)) == [
        "full0",
        "random0",
        "full1",
        "random1",
    ]
    begin(tmp_path, config.runs()[1], finished=True)
    assert names(pending_runs(config, tmp_path, resume=False)) == ["full0", "full1", "random1"]


def test_unfinished_runs_need_resume(tmp_path: Path, config: CompareConfig) -> None:
    begin(tmp_path, config.runs()[2], finished=False)
    with pytest.raises(DataAgentError, match=r"unfinished run in .*full-seed1.*--resume"):
        pending_runs(config, tmp_path, resume=False)
    assert len(pending_runs(config, tmp_path, resume=True)) == 4


def test_a_run_of_another_recipe_is_refused_wherever_it_stands(
    tmp_path: Path, config: CompareConfig
) -> None:
    last = config.runs()[-1]
    other = replace(last, recipe=replace(last.recipe, batch_size=16))
    begin(tmp_path, other, finished=True)
    with pytest.raises(DataAgentError, match="batch_size 16 there, 32 now"):
        pending_runs(config, tmp_path, resume=True)


def test_runs_go_one_after_the_other_and_a_failure_stops_none(
    tmp_path: Path, config: CompareConfig, data: ImageData, training: FakeTraining
) -> None:
    training.outcomes["random-seed0"] = RuntimeError("out of memory")
    outcome = run_all(config.runs(), data, tmp_path)
    assert training.ran == ["full-seed0", "random-seed0", "full-seed1", "random-seed1"]
    assert outcome.failed == {"random-seed0": "RuntimeError: out of memory"}
    assert not outcome.is_stopped


def test_a_stopped_run_ends_the_session(
    tmp_path: Path, config: CompareConfig, data: ImageData, training: FakeTraining
) -> None:
    training.outcomes["random-seed0"] = None
    outcome = run_all(config.runs(), data, tmp_path)
    assert training.ran == ["full-seed0", "random-seed0"]
    assert outcome.is_stopped


def test_a_folder_taken_by_another_process_is_a_failure_of_that_run_only(
    tmp_path: Path, config: CompareConfig, data: ImageData, training: FakeTraining
) -> None:
    first = config.runs()[0]
    with open_run(run_path(tmp_path, first), first.flat(), resume=False):
        outcome = run_all(config.runs(), data, tmp_path)
    assert list(outcome.failed) == ["full-seed0"]
    assert len(training.ran) == 3


def test_the_time_left_is_told_by_cost(
    tmp_path: Path,
    config: CompareConfig,
    data: ImageData,
    training: FakeTraining,
    caplog: pytest.LogCaptureFixture,
) -> None:
    # 100 s for a full run, 50 s for half of it: after the first, 50 + 100 + 50 s are left
    with caplog.at_level(logging.INFO, logger="data_agent"):
        run_all(config.runs(), data, tmp_path)
    assert caplog.messages == [
        "full-seed0: 90.00 % (3 to go, about 3 min 20 s)",
        "random-seed0: 90.00 % (2 to go, about 2 min 30 s)",
        "full-seed1: 90.00 % (1 to go, about 50 s)",
        "random-seed1: 90.00 %",
    ]
