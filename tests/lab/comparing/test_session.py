"""Runs of a comparison: what is pending, in turn, in parallel, and what can go wrong."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data_agent import DataAgentError
from data_agent.runtime import checkpoint
from data_agent_lab.comparing import execution, workers
from data_agent_lab.comparing.execution import RunOutcome
from data_agent_lab.comparing.grid import all_runs
from data_agent_lab.comparing.session import hold_output, pending_runs, run_all
from data_agent_lab.recipes import RunConfig
from data_agent_lab.runs.folder import RunFolder, open_run
from data_agent_lab.tasks import recipe_for

TINY = replace(
    recipe_for("digits"), subset=64, batch_size=16, width=4, epochs=8, device="cpu", num_threads=1
)


@pytest.fixture
def runs() -> list[RunConfig[Any]]:
    return all_runs([TINY], methods=["full", "random"], keep_ratios=[0.5], seeds=[0, 1])


def names(runs: list[RunConfig[Any]]) -> list[str]:
    return [run.name.removeprefix("digits/") for run in runs]


def begin(
    output: Path, run: RunConfig[Any], *, finished: bool, config: dict[str, Any] | None = None
) -> None:
    config = config or run.flat()
    with open_run(output / run.name, config, resume=False) as folder:
        folder.begin(config, device="cpu")
        if finished:
            folder.finish({"value": 0.0})


def run_them(runs: list[RunConfig[Any]], output: Path, **options: Any) -> dict[str, RunOutcome]:
    return run_all(runs, output, **{"seconds": {run.name: 1.0 for run in runs}, **options})


def failures(outcomes: dict[str, RunOutcome]) -> dict[str, str]:
    return {name: outcome.failure for name, outcome in outcomes.items() if outcome.failure}


class FakeTraining:
    """Stands in for `train_run`: takes a second per unit of cost and does what it is told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.ran: list[str] = []
        self.outcomes: dict[str, Any] = {}
        monkeypatch.setattr(execution, "train_run", self)
        monkeypatch.setattr(execution.time, "monotonic", lambda: self.now)

    def __call__(self, config: Any, data: Any, folder: RunFolder, **_: Any) -> Any:
        name = folder.path.name
        self.ran.append(name)
        self.now += 100 if config.method == "full" else 50
        outcome = self.outcomes.get(name, {"metric": "accuracy", "value": 90.0, "unit": "%"})
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> FakeTraining:
    return FakeTraining(monkeypatch)


def test_finished_runs_are_not_pending(tmp_path: Path, runs: list[RunConfig[Any]]) -> None:
    everything = ["full-seed0", "random-keep0.5-seed0", "full-seed1", "random-keep0.5-seed1"]
    assert names(pending_runs(runs, tmp_path, resume=False)) == everything
    begin(tmp_path, runs[1], finished=True)
    assert names(pending_runs(runs, tmp_path, resume=False)) == [
        name for name in everything if name != "random-keep0.5-seed0"
    ]


def test_unfinished_runs_need_resume(tmp_path: Path, runs: list[RunConfig[Any]]) -> None:
    begin(tmp_path, runs[2], finished=False)
    with pytest.raises(DataAgentError, match=r"unfinished run in .*full-seed1.*--resume"):
        pending_runs(runs, tmp_path, resume=False)
    assert len(pending_runs(runs, tmp_path, resume=True)) == 4


def test_a_run_of_another_recipe_is_refused_wherever_it_stands(
    tmp_path: Path, runs: list[RunConfig[Any]]
) -> None:
    last = runs[-1]
    begin(tmp_path, last, finished=True, config={**last.flat(), "batch_size": 8})
    with pytest.raises(DataAgentError, match="batch_size 8 there, 16 now"):
        pending_runs(runs, tmp_path, resume=True)


@pytest.mark.parametrize("wreck", ["foreign file", "damaged config", "damaged result"])
def test_foreign_and_half_written_folders_are_named_before_anything_starts(
    tmp_path: Path, runs: list[RunConfig[Any]], wreck: str
) -> None:
    last = runs[-1]
    folder = tmp_path / last.name
    if wreck == "foreign file":
        folder.mkdir(parents=True)
        (folder / "thesis.txt").write_text("precious")
    else:
        begin(tmp_path, last, finished=True)
        damaged = "config.json" if wreck == "damaged config" else "result.json"
        (folder / damaged).write_text('{"half')
    with pytest.raises(DataAgentError, match=str(folder)):
        pending_runs(runs, tmp_path, resume=True)


def test_runs_go_one_after_the_other_and_a_failure_stops_none(
    tmp_path: Path, runs: list[RunConfig[Any]], training: FakeTraining
) -> None:
    training.outcomes["random-keep0.5-seed0"] = RuntimeError("out of memory")
    outcomes = run_them(runs, tmp_path)
    assert training.ran == names(runs)
    assert failures(outcomes) == {"digits/random-keep0.5-seed0": "RuntimeError: out of memory"}
    assert not any(outcome.is_stopped for outcome in outcomes.values())


def test_a_method_that_ends_the_process_fails_alone(
    tmp_path: Path, runs: list[RunConfig[Any]], training: FakeTraining
) -> None:
    training.outcomes["random-keep0.5-seed0"] = SystemExit(3)
    outcomes = run_them(runs, tmp_path)
    assert training.ran == names(runs)
    assert failures(outcomes) == {"digits/random-keep0.5-seed0": "SystemExit: 3"}


def test_a_stopped_run_ends_the_session(
    tmp_path: Path, runs: list[RunConfig[Any]], training: FakeTraining
) -> None:
    training.outcomes["random-keep0.5-seed0"] = None
    outcomes = run_them(runs, tmp_path)
    assert training.ran == ["full-seed0", "random-keep0.5-seed0"]
    assert [outcome.is_stopped for outcome in outcomes.values()] == [False, True, True, True]


def test_a_folder_taken_by_another_process_is_a_failure_of_that_run_only(
    tmp_path: Path, runs: list[RunConfig[Any]], training: FakeTraining
) -> None:
    first = runs[0]
    with open_run(tmp_path / first.name, first.flat(), resume=False):
        outcomes = run_them(runs, tmp_path)
    assert list(failures(outcomes)) == ["digits/full-seed0"]
    assert len(training.ran) == 3


def test_the_time_left_is_told_by_what_runs_are_expected_to_take(
    tmp_path: Path,
    runs: list[RunConfig[Any]],
    training: FakeTraining,
    caplog: pytest.LogCaptureFixture,
) -> None:
    # Twice as slow as expected: after the first, 100 s for 50 of 150, so 200 s are left.
    expected = {run.name: 50.0 if "full" in run.name else 25.0 for run in runs}
    with caplog.at_level(logging.INFO, logger="data_agent_lab.comparing.execution"):
        run_them(runs, tmp_path, seconds=expected)
    assert caplog.messages == [
        "digits/full-seed0: accuracy 90.00 % (3 to go, about 3 min 20 s)",
        "digits/random-keep0.5-seed0: accuracy 90.00 % (2 to go, about 2 min 30 s)",
        "digits/full-seed1: accuracy 90.00 % (1 to go, about 50 s)",
        "digits/random-keep0.5-seed1: accuracy 90.00 %",
    ]


def test_a_second_comparison_in_one_folder_is_refused_at_once(tmp_path: Path) -> None:
    with (
        hold_output(tmp_path),
        pytest.raises(DataAgentError, match="another comparison is working in"),
        hold_output(tmp_path),
    ):
        pytest.fail("held twice")
    with hold_output(tmp_path):
        pass  # it is free again


def test_a_lock_that_is_a_link_is_refused_and_leads_nowhere(tmp_path: Path) -> None:
    elsewhere, output = tmp_path / "elsewhere", tmp_path / "output"
    elsewhere.write_text("precious")
    output.mkdir()
    (output / ".lock").symlink_to(elsewhere)
    with pytest.raises(DataAgentError, match="is a link to"), hold_output(output):
        pytest.fail("held through a link")
    assert elsewhere.read_text() == "precious"


def test_an_output_that_is_a_file_or_a_single_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataAgentError, match="is a file"), hold_output(tmp_path / "file"):
        pytest.fail("held")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(DataAgentError, match="folder of a single run"), hold_output(tmp_path):
        pytest.fail("held")


def test_a_folder_in_which_nothing_happened_is_gone_again(tmp_path: Path) -> None:
    with contextlib.suppress(ValueError), hold_output(tmp_path / "a" / "b"):
        raise ValueError
    assert list(tmp_path.iterdir()) == []


def without_times(folder: RunFolder) -> tuple[Any, ...]:
    """What must not depend on how many runs trained beside it."""
    clocks = ("seconds", "overhead")

    def stripped(values: dict[str, Any]) -> dict[str, Any]:
        return {
            key: stripped(value) if isinstance(value, dict) else value
            for key, value in values.items()
            if not any(clock in str(key) for clock in clocks)
        }

    model = checkpoint.load(folder.checkpoint)["model"]
    weights = {name: value.tolist() for name, value in model.items()}
    return stripped(folder.result()), [stripped(line) for line in folder.metrics()], weights


@pytest.mark.distributed
def test_parallel_runs_are_bitwise_the_runs_of_one_process(
    tmp_path: Path, runs: list[RunConfig[Any]]
) -> None:
    runs = all_runs([TINY], methods=["full", "random", "data-agent"], keep_ratios=[0.5], seeds=[0])
    seen: list[tuple[str, int, int]] = []
    outcomes = [
        run_them(runs, tmp_path / "1", jobs=1),
        run_them(runs, tmp_path / "2", jobs=2, progress=lambda *args: seen.append(args)),
    ]
    assert outcomes[0] == outcomes[1]
    assert all(outcome.reached for outcome in outcomes[0].values())
    for run in runs:
        alone, beside = (RunFolder(tmp_path / jobs / run.name) for jobs in ("1", "2"))
        assert without_times(alone) == without_times(beside)
        assert [s["jobs"] for f in (alone, beside) for s in f.sessions()] == [1, 2]
    assert all(0 <= done <= total for _, done, total in seen)


def on_begin(
    monkeypatch: pytest.MonkeyPatch, action: Callable[[Any, RunConfig[Any]], None]
) -> None:
    """Call `action(worker, run)` as soon as a worker has been given a run."""
    begin = workers._Worker.begin

    def acting(worker: Any, run: RunConfig[Any]) -> None:
        begin(worker, run)
        action(worker, run)

    monkeypatch.setattr(workers._Worker, "begin", acting)


@pytest.mark.distributed
def test_a_killed_worker_loses_its_run_and_no_other(
    tmp_path: Path, runs: list[RunConfig[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill_random(worker: Any, run: RunConfig[Any]) -> None:
        if run.method == "random":
            os.kill(worker.process.pid, signal.SIGKILL)

    on_begin(monkeypatch, kill_random)
    runs = all_runs([TINY], methods=["full", "random", "top-loss"], keep_ratios=[0.5], seeds=[0])
    ((name, reason),) = failures(run_them(runs, tmp_path, jobs=2)).items()
    assert name == "digits/random-keep0.5-seed0"
    assert "died (killed from outside" in reason
    finished = [run.name for run in runs if RunFolder(tmp_path / run.name).is_finished()]
    assert finished == ["digits/full-seed0", "digits/top-loss-keep0.5-seed0"]


@pytest.mark.distributed
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere workers import for themselves")
def test_workers_come_from_one_process_that_has_imported_for_all(
    tmp_path: Path, runs: list[RunConfig[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    parents: list[int] = []

    def look(worker: Any, _: RunConfig[Any]) -> None:
        stat = Path(f"/proc/{worker.process.pid}/stat").read_text()
        parents.append(int(stat.rpartition(")")[2].split()[1]))

    on_begin(monkeypatch, look)
    run_them(runs, tmp_path, jobs=2)
    assert len(parents) == len(runs)
    assert len(set(parents)) == 1
    assert parents[0] != os.getpid()
    loaded = Path(f"/proc/{parents[0]}/maps").read_text()
    assert "libtorch_cpu" in loaded


@pytest.mark.distributed
def test_whatever_ends_the_parent_no_worker_is_left(
    tmp_path: Path, runs: list[RunConfig[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[Any] = []

    def interrupt(worker: Any, run: RunConfig[Any]) -> None:
        begun.append(worker)
        if len(begun) == 2:
            raise KeyboardInterrupt

    on_begin(monkeypatch, interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_them(runs, tmp_path, jobs=2)
    assert [worker.process.exitcode for worker in begun] == [-signal.SIGKILL] * 2
