from __future__ import annotations

import contextlib
import json
import logging
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from data_agent import DataAgentError
from data_agent.runtime import checkpoint
from data_agent.runtime.files import replacing, write_json
from data_agent_lab.cli import main
from data_agent_lab.runs.folder import RunFolder, open_run

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
    start(tmp_path / "run").drop_metrics_after(0)  # as before the first step
    with pytest.raises(DataAgentError) as caught:
        RunFolder(tmp_path / "run").status({**CONFIG, "epochs": 4, "seed": 1})
    assert "epochs 3 there, 4 now; seed 0 there, 1 now" in str(caught.value)
    assert "method" not in str(caught.value)


def test_a_run_that_was_refused_before_its_first_step_blocks_no_other(tmp_path: Path) -> None:
    path, corrected = tmp_path / "run", {**CONFIG, "epochs": 4}
    start(path)
    with open_run(path, corrected, resume=False) as folder:
        folder.begin(corrected, device="cpu")
    assert RunFolder(path).config() == corrected
    assert len(RunFolder(path).sessions()) == 1  # the other was of another run
    (path / "notes.txt").write_text("kept")
    with pytest.raises(DataAgentError, match="epochs 4 there, 3 now"):
        RunFolder(path).status(CONFIG)


def test_a_run_that_has_not_trained_yet_keeps_others_out(tmp_path: Path) -> None:
    with open_run(tmp_path, CONFIG, resume=False) as folder:
        folder.begin(CONFIG, device="cpu")
        with (
            pytest.raises(DataAgentError, match="another process is working in"),
            open_run(tmp_path, {**CONFIG, "epochs": 4}, resume=False),
        ):
            pytest.fail("opened")
        assert folder.config() == CONFIG


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
        "from data_agent_lab.runs.folder import open_run\n"
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
    for epoch, step in ((0, 5), (1, 9)):  # killed between a line and the checkpoint of its step
        folder.append_metrics({"epoch": epoch, "step": step})
    folder.drop_metrics_after(9, before_epoch=1)
    assert folder.metrics() == [{"epoch": 0, "step": 5}]


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


def saved(path: Path, *steps: int) -> RunFolder:
    folder = start(path)
    for step in steps:
        folder.save_checkpoint({"step": step})
    return folder


def test_the_last_two_checkpoints_are_kept_until_the_result_is_there(tmp_path: Path) -> None:
    folder = saved(tmp_path / "run", 1, 2, 3)
    files = [tmp_path / "run" / f"checkpoint{which}.safetensors" for which in ("", "-previous")]
    assert [checkpoint.load(path)["step"] for path in files] == [3, 2]
    assert RunFolder(tmp_path / "run").load_checkpoint() == {"step": 3}
    folder.finish({"value": 1.0})
    assert [path.exists() for path in files] == [True, False]


def test_a_run_without_a_checkpoint_has_none(tmp_path: Path) -> None:
    assert start(tmp_path / "run").load_checkpoint() is None


def test_a_damaged_checkpoint_is_named_set_aside_and_pushes_no_good_one_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saved(tmp_path / "run", 1, 2).checkpoint.write_bytes(b"damaged")
    folder = RunFolder(tmp_path / "run")
    with caplog.at_level(logging.WARNING):
        assert folder.load_checkpoint() == {"step": 1}
    assert "checkpoint.safetensors is damaged" in caplog.text
    assert folder.checkpoint.read_bytes() == b"damaged"  # looking changes nothing
    folder.save_checkpoint({"step": 2})
    assert checkpoint.load(folder.checkpoint) == {"step": 2}
    assert checkpoint.load(folder.path / "checkpoint-previous.safetensors") == {"step": 1}
    assert (folder.path / "checkpoint-damaged.safetensors").read_bytes() == b"damaged"


def test_a_crash_between_the_two_renames_loses_nothing(tmp_path: Path) -> None:
    folder = saved(tmp_path / "run", 1, 2)
    folder.checkpoint.replace(folder.path / "checkpoint-previous.safetensors")
    assert RunFolder(folder.path).load_checkpoint() == {"step": 2}


def test_what_a_killed_writer_left_goes_when_the_run_goes_on(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, signal, sys\n"
        "from data_agent.runtime.files import replacing\n"
        "with replacing(pathlib.Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('half')\n"
        "    temporary.with_name('.tmpA1b2c3').write_text('of the library that writes')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    folder = saved(tmp_path / "run", 1)
    (folder.path / ".notes").write_text("not ours")
    before = {path.name for path in folder.path.iterdir()}
    subprocess.run([sys.executable, "-c", code, str(folder.checkpoint)], check=False)
    assert len({path.name for path in folder.path.iterdir()} - before) == 1
    with open_run(folder.path, CONFIG, resume=True):
        assert {path.name for path in folder.path.iterdir()} == before
    assert folder.load_checkpoint() == {"step": 1}


NAMES = ["config.json", "environment.json", "metrics.jsonl", ".lock", "checkpoint.safetensors"]


@pytest.mark.parametrize("name", NAMES)
def test_a_link_in_a_run_folder_is_neither_followed_nor_written_through(
    tmp_path: Path, name: str
) -> None:
    folder = saved(tmp_path / "run", 1)
    folder.append_metrics({"step": 1})
    target = tmp_path / "elsewhere"
    (folder.path / name).replace(target)
    (folder.path / name).symlink_to(target)
    before = target.read_bytes()

    def go_on() -> None:
        with open_run(folder.path, CONFIG, resume=True) as again:
            again.load_checkpoint()
            again.metrics()
            again.begin(CONFIG, device="cpu")

    with pytest.raises(DataAgentError, match=rf"{name} is a link to"):
        go_on()
    assert target.read_bytes() == before


def test_the_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    saved(tmp_path / "disk", 1)
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    with open_run(tmp_path / "run", CONFIG, resume=True) as folder:
        assert folder.load_checkpoint() == {"step": 1}


DAMAGE = {
    "no JSON": "{",
    "another kind": "[]",
    "nested deeply": "[" * 100_000,
    "a number of many digits": "9" * 5_000,
    "no text": b"\xff\xfe\x00",
    "empty": "",
}


@pytest.mark.parametrize("name", ["config.json", "environment.json", "result.json"])
@pytest.mark.parametrize("what", DAMAGE)
def test_whatever_a_json_file_holds_is_an_error_that_names_it(
    tmp_path: Path, name: str, what: str
) -> None:
    folder = start(tmp_path / "run")
    content = DAMAGE[what]
    path = folder.path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    read = {"config.json": folder.config, "environment.json": folder.sessions}
    with pytest.raises(DataAgentError, match=rf"{name} is damaged"):
        read.get(name, folder.result)()


@pytest.mark.parametrize("line", ["{", "[]", '{"loss": 1}', '{"step": "1"}', "[" * 100_000])
def test_a_damaged_line_of_metrics_is_an_error(tmp_path: Path, line: str) -> None:
    folder = start(tmp_path / "run")
    folder.append_metrics({"step": 1})
    with (folder.path / "metrics.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(DataAgentError, match=r"metrics\.jsonl is damaged"):
        folder.metrics()


def test_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
    folder = start(tmp_path / "run")
    with (folder.path / "config.json").open("r+b") as file:
        file.truncate(2**40)  # sparse: it takes no room
    with pytest.raises(DataAgentError, match="are read at most"):
        folder.status(CONFIG)


def test_an_output_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(DataAgentError, match="cannot be written"),
        open_run(tmp_path / "file" / "run", CONFIG, resume=False),
    ):
        pytest.fail("opened")


@pytest.mark.parametrize(
    "flags",
    [["--task", "../escape"], ["--task", "/etc/passwd"], ["--method", "../escape"]],
    ids=lambda flags: flags[1],
)
def test_a_name_is_a_name_and_no_path(
    tmp_path: Path, flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert main(["train", *flags]) == 2
    assert list(tmp_path.rglob("*")) == [tmp_path / "here"]


def test_nothing_that_executes_what_it_reads_is_used() -> None:
    source = Path(checkpoint.__file__).parent
    # lm-eval reads its own, installed task files; never a user's data.
    calls = (
        *(r"pickle\.load", r"torch\.load\(", r"np\.load\(", "allow_pickle"),
        *(r"yaml\.\w*load", "import yaml", r"(?<!\w)eval\(", r"(?<!\w)exec\("),
    )
    found = {
        (path.name, call)
        for path in source.rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        for call in calls
        if re.search(call, line) and ".eval()" not in line and "weights_only=True" not in line
    }
    assert not found
