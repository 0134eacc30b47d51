"""Lines of metrics reach a tracker as they are in the run's folder, also of a run that goes on."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from waiting import wait_until

from data_agent.errors import InputError
from data_agent_lab.cli import main
from data_agent_lab.comparing.session import run_all
from data_agent_lab.recipes import RunConfig
from data_agent_lab.runs.folder import RunFolder
from data_agent_lab.runs.tracking import _id_of, check_tracker, tracked
from data_agent_lab.tasks import load_task, recipe_for
from data_agent_lab.training.run import train_run

LINE: dict[str, Any] = {
    **{"epoch": 0, "step": 7, "train_loss": 2.5, "value": 30.0, "class_accuracy": [1.0, None]},
    **{"selector": {"tau": 0.25, "kl": float("nan")}, "visited": {"wrong_labels": 0.5}},
}
SENT = {
    **{"epoch": 0, "train_loss": 2.5, "value": 30.0, "data_agent/tau": 0.25},
    "visited/wrong_labels": 0.5,
}


def small() -> RunConfig[Any]:
    recipe = replace(recipe_for("digits"), epochs=8, num_evaluations=2, device="cpu")
    return RunConfig(recipe=recipe, method="random")


def begun(path: Path) -> RunFolder:
    path.mkdir()
    folder = RunFolder(path)
    folder.begin(small().flat(), device="cpu")
    return folder


def events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard reads there: by name step and value."""
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="no tensorboard"
    )
    found = accumulator.EventAccumulator(str(folder / "tensorboard")).Reload()
    return {
        name: [(e.step, e.value) for e in found.Scalars(name)] for name in found.Tags()["scalars"]
    }


def test_tensorboard_has_the_lines_of_a_run_that_was_stopped_and_went_on(tmp_path: Path) -> None:
    config, data = small(), load_task(small().recipe)
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    asked: list[int] = []

    def stop_in_the_third_epoch() -> bool:
        asked.append(1)
        return len(asked) == 17

    assert (
        train_run(
            *(config, data, folder), tracker="tensorboard", should_stop=stop_in_the_third_epoch
        )
        is None
    )
    assert train_run(config, data, folder, tracker="tensorboard") is not None
    found, lines = events(folder.path), folder.metrics()
    assert [step for step, _ in found["train_loss"]] == [line["step"] for line in lines]
    losses = [value for _, value in found["train_loss"]]
    assert losses == pytest.approx([line["train_loss"] for line in lines])
    values = [value for _, value in found["value"]]
    assert values == pytest.approx([line["value"] for line in lines if "value" in line])
    assert found["data_agent/visits"][-1][1] == lines[-1]["selector"]["visits"]


def test_runs_of_a_comparison_have_their_own(tmp_path: Path) -> None:
    run = small()
    assert run_all([run], tmp_path, tracker="tensorboard", seconds={run.name: 1.0})[
        run.name
    ].reached
    assert len(events(tmp_path / run.name)["train_loss"]) == 8


def test_numbers_of_a_line_are_sent_by_name(tmp_path: Path) -> None:
    folder = begun(tmp_path / "run")
    with tracked("tensorboard", folder, "a", step=0) as send:
        send(LINE)
    assert {name: found for name, found in events(folder.path).items()} == {
        name: [(7, value)] for name, value in SENT.items()
    }


def test_wandb_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="no wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    folder = begun(tmp_path / "run")
    with tracked("wandb", folder, "digits/random-seed0", step=0) as send:
        send(LINE)
    (file,) = folder.path.glob("wandb/offline-run-*/*.wandb")
    for name in (*SENT, "digits/random-seed0"):  # wandb writes from a process of its own
        wait_until(lambda name=name: name.encode() in file.read_bytes(), name)
    folder.begin(small().flat(), device="cpu")  # it goes on, under the same number
    assert file.stem == f"run-{_id_of(folder)}" != f"run-{_id_of(begun(tmp_path / 'other'))}"


SEND_THREE_LINES = """
from pathlib import Path

from test_tracking import LINE, begun, tracked

for number in range(2):  # runs of one name in two folders, the second one goes on
    folder = begun(Path(f"run{number}"))
    for _ in range(1 + number):
        with tracked("trackio", folder, "digits/random-seed0", step=0) as send:
            send(LINE)
"""


def test_trackio(tmp_path: Path) -> None:
    """In a process of its own: trackio reads where to write when it is first imported."""
    if find_spec("trackio") is None:
        pytest.skip("no trackio")
    subprocess.run(
        [sys.executable, "-c", SEND_THREE_LINES],
        cwd=tmp_path,
        env={
            **os.environ,
            "TRACKIO_DIR": str(tmp_path / "trackio"),
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
        },
        check=True,
    )
    with closing(sqlite3.connect(tmp_path / "trackio" / "data-agent.db")) as base:
        rows = base.execute("SELECT run_name, step, metrics FROM metrics ORDER BY id").fetchall()
    assert [step for _, step, _ in rows] == [7, 7, 7]
    names = [name for name, _, _ in rows]
    assert names[0] != names[1] == names[2]
    assert all(name.startswith("digits/random-seed0-") for name in names)
    assert json.loads(rows[0][2]) == SENT


def test_what_is_not_installed_is_said_before_anything_begins(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("data_agent_lab.runs.tracking.find_spec", lambda _: None)
    with pytest.raises(InputError, match="Run: pip install wandb"):
        check_tracker("wandb")
    for command in ("train", "compare"):
        assert main([command, "--log", "trackio", "--output", str(tmp_path / "run")]) == 2
        assert "--log trackio needs trackio, which is not installed" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
