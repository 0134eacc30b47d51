from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data_agent import DataAgentError, __version__
from data_agent.runtime import checkpoint
from data_agent_lab import actions, commands
from data_agent_lab.cli import main
from data_agent_lab.comparing import execution
from data_agent_lab.data import images as images_module

pytestmark = pytest.mark.slow

SMALL = ["--epochs", "8", "--subset", "64", "--batch-size", "16", "--width", "4", "--device", "cpu"]

RECIPE_FLAGS = [
    "--accumulation",
    "--augment",
    "--batch-size",
    "--data",
    "--device",
    "--duplicates",
    "--epochs",
    "--foreign-data",
    "--foreign-share",
    "--image-column",
    "--image-size",
    "--imbalance",
    "--keep-index",
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
    "--train-labels",
    "--trusted",
    "--trusted-imbalance",
    "--trusted-noise",
    "--trusted-rows",
    "--weight-decay",
    "--width",
]
COMMON_FLAGS = ["--help", "--log", "--no-resume", "--output", "--resume", "--time-limit"]
FLAGS = {
    "train": [*RECIPE_FLAGS, *COMMON_FLAGS, "--keep-ratio", "--method", "--seed"],
    "plan": [
        *RECIPE_FLAGS,
        "--help",
        "--keep-ratio",
        "--method",
        "--no-pilot",
        "--no-time",
        "--pilot",
        "--seed",
        "--time",
    ],
    "compare": [
        *RECIPE_FLAGS,
        *COMMON_FLAGS,
        "--data-root",
        "--jobs",
        "--keep-ratios",
        "--methods",
        "--seeds",
        "--suite",
        "--tasks",
    ],
    "report": ["--help", "--figures", "--no-figures", "--html", "--no-html"],
    "archive": ["--help", "--output"],
    "audit": [
        "--budget",
        "--datalab",
        "--drop",
        "--duplicates",
        "--features",
        "--help",
        "--no-datalab",
        "--no-duplicates",
        "--output",
    ],
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


@pytest.mark.parametrize(
    ("argv", "methods"),
    [
        (["--suite", "detection"], "full,full-short,random,data-agent,infobatch,afss"),
        (["--task", "detection"], "full,full-short,random,data-agent,infobatch,afss"),
        (["--suite", "prompts"], "random,prompt-agent"),
        (["--suite", "core"], "full,full-short,random,data-agent"),
        ([], "full,full-short,random,data-agent"),
    ],
)
def test_the_methods_of_a_comparison_are_those_of_its_tasks(argv: list[str], methods: str) -> None:
    command: Any = commands.parse(["compare", *argv])
    assert command.methods == methods


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"data-agent {__version__}\n"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["train", "--task", "nope"], "task 'nope' is unknown"),
        (["train", "--task=nope"], "task 'nope' is unknown"),
        (["train", "--method", "nope"], "method 'nope' is unknown"),
        (["compare", "--methods", "full,nope"], "method 'nope' is unknown"),
        (["train", "--model", "nope"], "model 'nope' is unknown"),
        (["train", "--keep-ratio", "1.5"], "--keep-ratio is 1.5"),
        (["train", "--task", "image"], "needs --data"),
        (["train", "--task", "image", "--data", "./nowhere"], "does not exist"),
        (["compare", "--task", "image", "--data", "./nowhere"], "does not exist"),
        (["compare", "--keep-ratios", "0.5,0.5"], "--keep-ratios names 0.5 twice"),
        (["compare", "--seeds", "1,1"], "--seeds names 1 twice"),
        (["compare", "--jobs", "0"], "--jobs is 0"),
        (["compare", "--suite", "huge"], "suite 'huge' is unknown"),
        (["compare", "--suite", "core"], "needs the folder data/cifar10, which does not exist"),
        (["compare", "--suite", "core", "--epochs", "3"], "--epochs cannot be changed in a suite"),
        (["compare", "--tasks", "tiny-imagenet", "--batch_size=3"], "--batch-size cannot be"),
        (["report", "nowhere"], "nowhere is neither a folder nor a file"),
        (["report", "."], "no run under . has finished"),
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


@pytest.mark.parametrize(("module", "extras"), [("rich.table", "lab"), ("trl", "lab,trl")])
def test_a_library_that_is_missing_is_named_with_the_extra_that_has_it(
    module: str, extras: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(_: Any) -> None:
        raise ModuleNotFoundError(name=module)

    monkeypatch.setattr(commands, "parse", missing)
    assert main([]) == 2
    told = capsys.readouterr().err
    assert f"needs {module}, which is not installed." in told
    assert f"In a checkout of data_agent: pip install '.[{extras}]'." in told


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
    argv += ["--model", "resnet-small", "--width", "16", "--epochs", "8", "--batch-size", "10"]
    argv += ["--image-size", "8", "--label-noise", "0.1", "--num-threads", "1", "--device", "cpu"]
    assert main(argv) == 0
    assert "50.0 % of the cost of full training" in capsys.readouterr().out
    assert {entry.name for entry in (tmp_path / "run").iterdir()} == {
        ".lock",
        "checkpoint.safetensors",
        "config.json",
        "environment.json",
        "metrics.jsonl",
        "report.html",
        "result.json",
        "samples.csv",
        "samples.parquet",
    }
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["num_noisy_labels"] == 4
    assert main(argv) == 0  # finished: said, not done again
    assert "Already done" in capsys.readouterr().out


def recorded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the runs that are trained from now on."""
    ran: list[str] = []
    train = execution.train_run

    def recording(config: Any, data: Any, folder: Any, **options: Any) -> Any:
        ran.append(folder.path.name)
        return train(config, data, folder, **options)

    monkeypatch.setattr(execution, "train_run", recording)
    return ran


def test_compare_end_to_end_and_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "demo"
    argv = ["compare", *SMALL, "--jobs", "1", "--output", str(output)]
    assert main([*argv, "--methods", "full,full-short,random", "--seeds", "1"]) == 0
    captured = capsys.readouterr()
    assert "full-short" in captured.out
    assert "One seed has no interval" in captured.out
    assert "3 runs to do, 0 finished" in captured.err
    assert {path.name for path in output.iterdir()} == {
        ".lock",
        "comparison.json",
        "comparison.md",
        "digits",
        "figures",
        "report.html",
    }
    assert f"Open it in a browser: {(output / 'report.html').as_uri()}" in captured.out

    ran = recorded(monkeypatch)
    more = [*argv, "--methods", "full,random,data-agent", "--seeds", "2"]
    assert main(more) == 0
    assert ran == [
        "data-agent-keep0.5-seed0",
        "full-seed1",
        "random-keep0.5-seed1",
        "data-agent-keep0.5-seed1",
    ]
    ran.clear()
    assert main(more) == 0
    assert ran == []
    assert main([*more, "--keep-ratios", "0.5,0.25", "--seeds", "0,"]) == 0
    assert ran == ["random-keep0.25-seed0", "data-agent-keep0.25-seed0"]
    (task,) = json.loads((output / "comparison.json").read_text())["tasks"]
    half, quarter = task["cells"]
    costs = {row["method"]: round(row["cost"], 3) for row in half["rows"]}
    assert costs == {"full": 1.0, "full-short": 0.5, "random": 0.5, "data-agent": 0.5}
    assert {row["method"] for row in quarter["rows"]} == {"full", "random", "data-agent"}

    before = (output / "comparison.json").read_bytes()
    (output / "comparison.json").unlink()
    assert main(["report", str(output)]) == 0
    assert (output / "comparison.json").read_bytes() == before


def test_several_tasks_are_compared_and_ranked(
    tmp_path: Path, parquet_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A suite of two small tasks: the parquet folder, and with wrong labels."""
    from data_agent_lab.tasks import SUITES, TASKS

    plain = TASKS["cifar10-underfit"]
    small = {"epochs": 4, "subset": 32, "batch_size": 8, "width": 4, "model": "cnn"}
    recipes = {
        name: replace(plain, task=name, image_size=8, label_noise=noise, **small)
        for name, noise in (("clean", 0.0), ("noisy", 0.3))
    }
    monkeypatch.setitem(SUITES, "two", ("clean", "noisy"))
    for name, recipe in recipes.items():
        monkeypatch.setitem(TASKS, name, recipe)
    parquet_folder.rename(tmp_path / "cifar10")
    output = tmp_path / "out"
    argv = ["compare", "--suite", "two", "--data-root", str(tmp_path), "--jobs", "1", "--seeds"]
    argv += ["2", "--methods", "full,full-short,random", "--output", str(output)]
    assert main(argv) == 0
    report = json.loads((output / "comparison.json").read_text())
    assert [task["name"] for task in report["tasks"]] == ["clean", "noisy"]
    (over,) = report["over_tasks"]
    assert sum(found["rank"] for found in over["methods"]) == pytest.approx(1 + 2 + 3)
    assert (output / "clean" / "random-keep0.5-seed1" / "result.json").is_file()


def test_a_failing_run_does_not_lose_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    train = execution.train_run

    def failing(config: Any, *args: Any, **kwargs: Any) -> Any:
        if config.method == "full":
            raise DataAgentError("the disk is full")
        return train(config, *args, **kwargs)

    monkeypatch.setattr(execution, "train_run", failing)
    argv = ["compare", *SMALL, "--methods", "full,random", "--seeds", "1", "--jobs", "1"]
    argv += ["--output", str(tmp_path)]
    assert main(argv) == 1
    out = capsys.readouterr().out
    assert "digits/full-seed0 failed: DataAgentError: the disk is full" in out
    assert (tmp_path / "digits" / "random-keep0.5-seed0" / "result.json").is_file()


def test_a_comparison_with_another_recipe_is_refused_before_it_trains(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["compare", *SMALL, "--methods", "random", "--seeds", "1", "--jobs", "1"]
    argv += ["--output", str(tmp_path)]
    assert main(argv) == 0
    assert main([*argv, "--learning-rate", "0.25"]) == 2
    assert "learning_rate 0.1 there, 0.25 now" in capsys.readouterr().err


def test_trusted_rows_without_room_are_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["train", *SMALL, "--output", str(tmp_path / "run"), "--trusted-rows"]
    assert main([*argv, "200"]) == 2
    assert "--trusted-rows is 200; half of each class" in capsys.readouterr().err
    assert main([*argv, "20"]) == 2
    says = "digits: data-agent cannot be trained with --trusted-rows 20: 20 rows are trusted, more"
    assert says in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    argv = ["compare", *SMALL, "--seeds", "2", "--output", str(tmp_path / "all"), "--jobs", "1"]
    methods = "random,data-agent,data-agent-in-batch,infobatch-published,class-balanced-random"
    argv += ["--methods", methods, "--keep-ratios", "0.5,0.2", "--trusted-rows", "10"]
    assert main(argv) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "cannot be trained" in line]
    assert len(lines) == 5
    for method, says in (
        ("data-agent-in-batch", "chooses inside each batch"),
        ("infobatch-published", "infobatch in place of infobatch-published"),
        ("random", "10 rows are trusted, more than half of an epoch of 13"),
    ):
        assert any(f"{method} cannot be trained" in line and says in line for line in lines)
    assert not (tmp_path / "all").exists()


def test_a_method_of_ones_own_is_found_from_where_the_command_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "from data_agent.baselines.random import Random\n\nclass Mine(Random):\n    name = 'mine'"
    )
    (tmp_path / "own_method_here.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    argv = ["compare", *SMALL, "--methods", "own_method_here:Mine", "--seeds", "1", "--jobs", "1"]
    assert main(argv) == 0
    assert sys.path == path
    run = tmp_path / "runs" / "compare-digits" / "digits" / "own_method_here:Mine-keep0.5-seed0"
    assert (run / "result.json").is_file()


def test_runs_in_parallel_take_a_thread_each_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actions, "num_cpus", lambda: 4)

    def threads_and_jobs(*flags: str) -> tuple[int | None, int]:
        argv = ["compare", "--task", "cifar10", "--device", "cpu", *flags]
        command = commands.parse(argv)
        assert isinstance(command, commands.Compare)
        runs, jobs, _ = actions.runs_of(command, argv)
        return runs[0].recipe.num_threads, jobs

    assert threads_and_jobs() == (1, 4)
    assert threads_and_jobs("--jobs", "1") == (None, 1)
    assert threads_and_jobs("--jobs", "2", "--num-threads", "3") == (3, 2)


def start(argv: list[str]) -> subprocess.Popen[str]:
    """A comparison in a process and process group of its own, as in a terminal."""
    code = "import sys; from data_agent_lab.cli import main; sys.exit(main())"
    return subprocess.Popen(
        [sys.executable, "-c", code, *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.parametrize("command", ["train", "compare"])
def test_a_time_limit_stops_with_a_checkpoint_and_resume_goes_on_exactly(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = Path("digits/data-agent-keep0.5-seed0") if command == "compare" else Path()
    own = ["--methods", "data-agent", "--seeds", "1", "--jobs", "1"]
    words = [command, *SMALL, *(own if command == "compare" else ["--method", "data-agent"])]
    short = [*words, "--output", str(tmp_path / "short"), "--time-limit", "1e-6"]
    assert main(short) == 75
    said = capsys.readouterr().out
    assert "The time limit is over; a checkpoint is written. Go on with: data-agent" in said
    assert said.rstrip().endswith("--time-limit 1e-6 --resume")
    assert not (tmp_path / "short" / name / "result.json").exists()
    assert main([*short[:-2], "--resume", "--time-limit", "60"]) == 0
    assert main([*words, "--output", str(tmp_path / "whole")]) == 0
    assert outcome_of(tmp_path / "short" / name) == outcome_of(tmp_path / "whole" / name)


def test_a_time_limit_is_above_zero(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *SMALL, "--time-limit", "0"]) == 2
    assert "--time-limit is 0.0; expected a number above 0" in capsys.readouterr().err


def wait_for(is_true: Callable[[], bool], seconds: float = 60) -> None:
    for _ in range(int(seconds / 0.02)):
        if is_true():
            return
        time.sleep(0.02)
    pytest.fail("waited in vain")


def group_is_gone(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def outcome_of(folder: Path) -> tuple[Any, ...]:
    result = json.loads((folder / "result.json").read_text())
    model = checkpoint.load(folder / "checkpoint.safetensors")["model"]
    return result["value"], result["eval_loss"], {k: v.tolist() for k, v in model.items()}


@pytest.mark.slow
@pytest.mark.distributed
def test_ctrl_c_stops_all_workers_with_checkpoints_and_resume_goes_on_exactly(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "demo"
    argv = ["compare", *SMALL, "--epochs", "120", "--methods", "random,data-agent", "--seeds", "1"]
    folders = ["random-keep0.5-seed0", "data-agent-keep0.5-seed0"]
    with start([*argv, "--jobs", "2", "--output", str(output)]) as process:
        checkpoints = [output / "digits" / name / "checkpoint.safetensors" for name in folders]
        wait_for(lambda: process.poll() is not None or all(path.is_file() for path in checkpoints))
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "Go on with: data-agent compare" in out
    assert "--resume" in out
    wait_for(lambda: group_is_gone(process.pid), 10)
    # The worker that started last has only just written its first checkpoint; the other, which may
    # have started seconds before, can be at its end.
    done = [len(lines_of(output / "digits" / name / "metrics.jsonl")) for name in folders]
    assert 0 < min(done) < 120

    assert main([*argv, "--output", str(output)]) == 2
    assert "Add --resume" in capsys.readouterr().err
    assert main([*argv, "--jobs", "1", "--output", str(output), "--resume"]) == 0
    assert main([*argv, "--jobs", "1", "--output", str(tmp_path / "undisturbed")]) == 0
    for name in folders:
        stopped, undisturbed = (tmp_path / o / "digits" / name for o in ("demo", "undisturbed"))
        assert outcome_of(stopped) == outcome_of(undisturbed)
        assert [line["epoch"] for line in lines_of(stopped / "metrics.jsonl")] == list(range(120))


@pytest.mark.slow
@pytest.mark.distributed
def test_workers_do_not_outlive_a_killed_parent_and_leave_checkpoints(tmp_path: Path) -> None:
    argv = ["compare", *SMALL, "--epochs", "400", "--methods", "full,random", "--seeds", "1"]
    runs = [tmp_path / "digits" / name for name in ("full-seed0", "random-keep0.5-seed0")]
    metrics = [run / "metrics.jsonl" for run in runs]
    with start([*argv, "--jobs", "2", "--output", str(tmp_path)]) as process:
        wait_for(lambda: all(path.is_file() and path.stat().st_size for path in metrics))
        process.kill()
        process.communicate(timeout=60)
    wait_for(lambda: group_is_gone(process.pid), 20)
    for run in runs:
        position = checkpoint.load(run / "checkpoint.safetensors")["position"]
        assert position["step"] >= lines_of(run / "metrics.jsonl")[-1]["step"]
