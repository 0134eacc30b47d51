from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from data_agent import DataAgentError, __version__
from data_agent.cli import main
from data_agent.lab import compare as compare_module
from data_agent.lab import images as images_module

SMALL = ["--epochs", "8", "--subset", "64", "--batch-size", "16", "--width", "4", "--device", "cpu"]

RECIPE_FLAGS = [
    "--accumulation",
    "--augment",
    "--batch-size",
    "--data",
    "--device",
    "--epochs",
    "--image-column",
    "--image-size",
    "--keep-ratio",
    "--label-column",
    "--label-noise",
    "--label-smoothing",
    "--learning-rate",
    "--model",
    "--momentum",
    "--num-evaluations",
    "--num-threads",
    "--optimizer",
    "--precision",
    "--schedule",
    "--subset",
    "--task",
    "--weight-decay",
    "--width",
]
COMMON_FLAGS = ["--help", "--no-resume", "--output", "--resume"]
FLAGS = {
    "train": [*RECIPE_FLAGS, *COMMON_FLAGS, "--method", "--seed"],
    "compare": [*RECIPE_FLAGS, *COMMON_FLAGS, "--methods", "--seeds"],
}


def help_of(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    with pytest.raises(SystemExit) as caught:
        main([*argv, "--help"])
    assert caught.value.code == 0
    return capsys.readouterr().out


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("command", FLAGS)
def test_the_flags_are_these(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    found = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*(?=[ ,])", help_of(capsys, command)))
    assert sorted(found) == sorted(FLAGS[command])


def test_help_shows_the_defaults_of_the_task(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert re.search(r"--epochs INT .*default: 60\)", help_of(capsys, "train"))
    assert re.search(
        r"--epochs INT .*default: 200\)", help_of(capsys, "train", "--task", "cifar10")
    )


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"data-agent {__version__}\n"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["train", "--task", "nope"], "unknown task 'nope'"),
        (["train", "--task=nope"], "unknown task 'nope'"),
        (["train", "--method", "nope"], "method 'nope' is unknown"),
        (["compare", "--methods", "full,nope"], "method 'nope' is unknown"),
        (["train", "--model", "nope"], "unknown model 'nope'"),
        (["train", "--keep-ratio", "1.5"], "--keep-ratio is 1.5"),
        (["train", "--task", "image"], "needs --data"),
        (["train", "--task", "image", "--data", "./nowhere"], "does not exist"),
        (["compare", "--task", "image", "--data", "./nowhere"], "does not exist"),
    ],
)
def test_mistakes_are_one_clear_message_and_exit_code_2(
    argv: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("data-agent: ")
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert list(tmp_path.iterdir()) == []


def test_names_are_checked_before_anything_is_loaded(
    parquet_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        pytest.fail("data was loaded")

    monkeypatch.setattr(images_module, "load_images", fail)
    assert main(["train", "--task", "image", "--data", str(parquet_folder), "--method", "x"]) == 2


def test_train_on_local_images_end_to_end(
    tmp_path: Path, parquet_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["train", "--task", "image", "--data", str(parquet_folder)]
    argv += ["--output", str(tmp_path / "run")]
    argv += ["--model", "resnet-small", "--width", "4", "--epochs", "8", "--batch-size", "10"]
    argv += ["--image-size", "8", "--label-noise", "0.1", "--num-threads", "1", "--device", "cpu"]
    assert main(argv) == 0
    assert "50.0 % of the cost of full training" in capsys.readouterr().out
    assert {entry.name for entry in (tmp_path / "run").iterdir()} == {
        ".lock",
        "checkpoint.safetensors",
        "config.json",
        "environment.json",
        "metrics.jsonl",
        "result.json",
    }
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["num_noisy_labels"] == 4
    assert main(argv) == 0  # finished: said, not done again
    assert "Already done" in capsys.readouterr().out


def test_compare_end_to_end_and_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "demo"
    argv = ["compare", *SMALL, "--output", str(output)]
    assert main([*argv, "--methods", "full,full-short,random", "--seeds", "1"]) == 0
    table = capsys.readouterr().out
    assert "full-short" in table
    assert "One seed has no interval" in table
    assert (output / "comparison.png").is_file()

    ran: list[str] = []
    train = compare_module.train

    def recording(config: Any, *args: Any, **kwargs: Any) -> Any:
        ran.append(f"{config.method}-{config.seed}")
        return train(config, *args, **kwargs)

    monkeypatch.setattr(compare_module, "train", recording)
    assert main([*argv, "--methods", "full,random,data-agent", "--seeds", "2"]) == 0
    assert ran == ["data-agent-0", "full-1", "random-1", "data-agent-1"]
    ran.clear()
    assert main([*argv, "--methods", "full,random,data-agent", "--seeds", "2"]) == 0
    assert ran == []
    rows = json.loads((output / "comparison.json").read_text())["rows"]
    assert [row["method"] for row in rows] == ["full", "random", "data-agent"]
    assert [round(row["cost"], 3) for row in rows] == [1.0, 0.5, 0.5]


def test_a_failing_run_does_not_lose_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    train = compare_module.train

    def failing(config: Any, *args: Any, **kwargs: Any) -> Any:
        if config.method == "full":
            raise DataAgentError("the disk is full")
        return train(config, *args, **kwargs)

    monkeypatch.setattr(compare_module, "train", failing)
    argv = ["compare", *SMALL, "--methods", "full,random", "--seeds", "1"]
    argv += ["--output", str(tmp_path)]
    assert main(argv) == 1
    out = capsys.readouterr().out
    assert "full-seed0 failed: DataAgentError: the disk is full" in out
    assert (tmp_path / "random-seed0" / "result.json").is_file()


def test_a_comparison_with_another_recipe_is_refused_before_it_trains(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["compare", *SMALL, "--methods", "random", "--seeds", "1", "--output", str(tmp_path)]
    assert main(argv) == 0
    assert main([*argv, "--keep-ratio", "0.25"]) == 2
    assert "keep_ratio 0.5 there, 0.25 now" in capsys.readouterr().err


def test_ctrl_c_stops_with_a_checkpoint_and_resume_finishes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "demo"
    argv = [sys.executable, "-c", "import sys; from data_agent.cli import main; sys.exit(main())"]
    argv += ["compare", *SMALL, "--epochs", "150", "--methods", "random", "--seeds", "1"]
    argv += ["--output", str(output)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(argv, **pipes) as process:
        checkpoint = output / "random-seed0" / "checkpoint.safetensors"
        for _ in range(1500):
            if checkpoint.is_file() or process.poll() is not None:
                break
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "Go on with: data-agent compare" in out
    assert "--resume" in out
    lines = lines_of(output / "random-seed0" / "metrics.jsonl")
    assert 0 < len(lines) < 150

    assert main(argv[3:]) == 2
    assert "Add --resume" in capsys.readouterr().err
    assert main([*argv[3:], "--resume"]) == 0
    assert [line["epoch"] for line in lines_of(output / "random-seed0" / "metrics.jsonl")] == list(
        range(150)
    )
