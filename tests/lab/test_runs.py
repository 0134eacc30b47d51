from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from data_agent import DataAgentError
from data_agent import _checkpoint as checkpoint
from data_agent._files import replacing, write_json
from data_agent.lab.runs import RunFolder, open_run

CONFIG: dict[str, Any] = {"method": "full", "seed": 0, "epochs": 3, "data": None}


def start(path: Path, config: dict[str, Any] = CONFIG) -> RunFolder:
    with open_run(path, config, resume=False) as folder:
        folder.begin(config, device="cpu")
    return RunFolder(path)


def test_a_new_run_records_what_and_where(tmp_path: Path) -> None:
    folder = start(tmp_path / "a" / "run")
    assert folder.config() == CONFIG
    (session,) = folder.sessions()
    assert {"platform", "cpu", "num_cpus", "gpu", "torch", "data_agent", "command"} <= set(session)
    assert folder.status(CONFIG) == "unfinished"


def test_each_session_is_recorded(tmp_path: Path) -> None:
    start(tmp_path / "run")
    with open_run(tmp_path / "run", CONFIG, resume=True) as folder:
        folder.begin(CONFIG, device="cpu")
    assert len(RunFolder(tmp_path / "run").sessions()) == 2


def test_an_unfinished_run_needs_resume(tmp_path: Path) -> None:
    start(tmp_path / "run")
    with (
        pytest.raises(DataAgentError, match=r"unfinished run in .*Add --resume"),
        open_run(tmp_path / "run", CONFIG, resume=False),
    ):
        pytest.fail("opened")
    with open_run(tmp_path / "run", CONFIG, resume=True) as folder:
        assert folder.status(CONFIG) == "unfinished"


def test_a_finished_run_is_not_opened_again(tmp_path: Path) -> None:
    start(tmp_path / "run").finish({"value": 1.0})
    assert RunFolder(tmp_path / "run").status(CONFIG) == "finished"
    assert RunFolder(tmp_path / "run").result() == {"value": 1.0}
    with (
        pytest.raises(DataAgentError, match="is finished"),
        open_run(tmp_path / "run", CONFIG, resume=True),
    ):
        pytest.fail("opened")


def test_another_configuration_is_refused_by_the_fields_that_differ(tmp_path: Path) -> None:
    start(tmp_path / "run")
    with pytest.raises(DataAgentError) as caught:
        RunFolder(tmp_path / "run").status({**CONFIG, "epochs": 4, "seed": 1})
    assert "epochs 3 there, 4 now; seed 0 there, 1 now" in str(caught.value)
    assert "method" not in str(caught.value)


def test_a_folder_that_is_not_ours_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with (
        pytest.raises(DataAgentError, match="is not a folder of data-agent"),
        open_run(tmp_path, CONFIG, resume=True),
    ):
        pytest.fail("opened")
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.txt"]


def test_another_programs_config_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", {"model": "bert"})
    with pytest.raises(DataAgentError, match="is not a folder of this data-agent"):
        RunFolder(tmp_path).status(CONFIG)


def test_a_damaged_config_is_refused(tmp_path: Path) -> None:
    start(tmp_path / "run")
    (tmp_path / "run" / "config.json").write_text('{"format": ')
    with pytest.raises(DataAgentError, match=r"config\.json is damaged"):
        RunFolder(tmp_path / "run").status(CONFIG)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataAgentError, match="must be a folder"):
        RunFolder(tmp_path / "file").status(CONFIG)


def test_a_session_that_died_before_it_began_leaves_no_obstacle(tmp_path: Path) -> None:
    with open_run(tmp_path / "run", CONFIG, resume=False):
        pass  # no begin
    assert RunFolder(tmp_path / "run").status(CONFIG) == "new"


def test_two_processes_cannot_work_in_one_folder(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\n"
        "from data_agent.lab.runs import open_run\n"
        "with open_run(pathlib.Path(sys.argv[1]), {'a': 1}, resume=False):\n"
        "    print('open', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    path = tmp_path / "run"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"open\n"
        with (
            pytest.raises(DataAgentError, match="another process is working in"),
            open_run(path, {"a": 1}, resume=False),
        ):
            pytest.fail("opened")
        other.communicate(b"")
    with open_run(path, {"a": 1}, resume=False):
        pass  # the lock ended with its process


def test_metrics_after_a_step_are_forgotten(tmp_path: Path) -> None:
    folder = start(tmp_path / "run")
    for step in (5, 10, 15):
        folder.append_metrics({"step": step, "loss": 1 / step})
    with (folder.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 20, "lo')
    folder.drop_metrics_after(10)
    assert folder.metrics() == [{"step": 5, "loss": 0.2}, {"step": 10, "loss": 0.1}]
    folder.drop_metrics_after(0)
    assert folder.metrics() == []


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_json(path, {"value": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"value": float("nan")})
    with contextlib.suppress(KeyboardInterrupt), replacing(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert json.loads(path.read_text()) == {"value": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_files_are_readable_as_any_other_file(tmp_path: Path) -> None:
    write_json(tmp_path / "ours", {})
    (tmp_path / "plain").write_text("")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_checkpoints_are_readable_as_any_other_file(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "ours", {"weights": torch.ones(1)})
    (tmp_path / "plain").write_text("")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode
