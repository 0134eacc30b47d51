"""The lab on several ranks: real processes, as `torchrun` starts them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import redirect_stderr
from dataclasses import replace
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import join_group, run_ranks
from shapes import HEIGHT, WIDTH, shapes
from torch import nn
from waiting import wait_until

from data_agent import DataAgentError
from data_agent.runtime import checkpoint
from data_agent.testing.runs import equal_states
from data_agent_lab.cli import main
from data_agent_lab.recipes import RunConfig
from data_agent_lab.runs.folder import RunFolder, open_run
from data_agent_lab.tasks import load_task, recipe_for
from data_agent_lab.training import ranks
from data_agent_lab.training.images import ImageEngine
from data_agent_lab.training.ranks import added_up, open_run_together
from data_agent_lab.training.run import train_run

pytestmark = pytest.mark.distributed

EPOCHS, SIZE = 8, 102
SMALL = [
    *("--epochs", str(EPOCHS), "--subset", str(SIZE), "--batch-size", "16", "--width", "4"),
    *("--device", "cpu", "--augment", "crop"),
]


def config_of(method: str, *, keep_ratio: float = 0.5, **changes: Any) -> RunConfig:
    """51 samples an epoch: three batches of 16 and one of three, with dropout and augmentation."""
    recipe = recipe_for("digits")
    small = replace(recipe, epochs=EPOCHS, subset=SIZE, batch_size=16, augment="crop")
    small = replace(small, device="cpu", **{"width": 4, **changes})
    return RunConfig(recipe=small, method=method, keep_ratio=keep_ratio)


def boxes_config() -> RunConfig:
    recipe = replace(recipe_for("detection"), image_width=WIDTH, image_height=HEIGHT)
    small = replace(recipe, model="detector-16", epochs=EPOCHS, batch_size=4, device="cpu")
    return RunConfig(recipe=small, method="afss")


def run(path: Path, config: RunConfig, *, stop_at: int | None = None, data: Any = None):
    """A run, or its rest, on the ranks there are; the last one of them is asked to stop."""
    asked: list[int] = []

    def should_stop() -> bool:
        asked.append(1)
        is_last = os.environ.get("RANK", "0") == str(int(os.environ.get("WORLD_SIZE", "1")) - 1)
        return is_last and stop_at is not None and len(asked) >= stop_at

    data = data or load_task(config.recipe)
    with open_run_together(path, config.flat(), resume=True) as folder:
        return train_run(config, data, folder, should_stop=should_stop)


def plain(path: Path) -> Any:
    """A run's last checkpoint less what depends on the clock."""
    state = checkpoint.load(path / "checkpoint.safetensors")
    state["selector"]["overhead_seconds"] = 0.0
    state["ledger"] = {k: v for k, v in state["ledger"].items() if "seconds" not in k}
    return state


def runs_of_two(rank: int, folder: Path) -> list[Any]:
    """Whole runs, and runs that stop in the middle of an epoch and go on."""
    join_group()
    agent, results = config_of("data-agent"), []
    results.append(run(folder / "whole", agent))
    assert run(folder / "parts", agent, stop_at=13) is None
    results.append(run(folder / "parts", agent))
    assert run(folder / "shrinks", agent, stop_at=13) is None
    results.append(run(folder / "pools", config_of("selective-backprop", accumulation=2)))
    results.append(run(folder / "scored", config_of("el2n")))
    results.append(run(folder / "boxes", boxes_config(), data=shapes(16, 5)))
    return results


def test_two_ranks_train_stop_and_go_on(tmp_path: Path) -> None:
    first, second = run_ranks(runs_of_two, tmp_path, tmp_path)
    for mine, yours in zip(first, second, strict=True):
        for key in ("value", "train_loss", "num_forward", "num_steps", "cost"):
            assert mine[key] == yours[key], key

    whole, parts, pools, scored, boxes = first
    assert whole["num_forward"] == whole["num_backward"] == 51 * EPOCHS
    assert whole["cost"] == 0.5
    assert whole["num_steps"] == 4 * EPOCHS
    assert pools["num_backward"] == 51 * EPOCHS
    assert pools["num_forward"] == (SIZE + 51) * EPOCHS
    assert scored["num_backward"] == 2 * SIZE + 51 * EPOCHS  # two proxies of an epoch, once

    assert boxes["num_backward"] == 8 * EPOCHS
    assert boxes["num_forward"] == 8 * EPOCHS + 2 * 16  # two looks at all images
    assert boxes["metric"] == "mAP"

    assert equal_states(plain(tmp_path / "parts"), plain(tmp_path / "whole"))  # bitwise
    assert parts["train_loss"] == whole["train_loss"]

    lines = RunFolder(tmp_path / "parts").metrics()  # rank 0 alone wrote them
    assert [line["epoch"] for line in lines] == list(range(EPOCHS))
    assert [s["num_ranks"] for s in RunFolder(tmp_path / "parts").sessions()] == [2, 2]

    config = config_of("data-agent")  # what two ranks shared goes on in one process
    with open_run(tmp_path / "shrinks", config.flat(), resume=True) as folder:
        alone = train_run(config, load_task(config.recipe), folder)
    assert alone is not None
    assert (alone["num_forward"], alone["num_steps"]) == (51 * EPOCHS, 4 * EPOCHS)
    losses = [line["train_loss"] for line in folder.metrics()]
    assert len(losses) == EPOCHS
    assert all(abs(one - other) < 0.5 for one, other in pairwise(losses))  # no jump at the seam


def go_on_on_two(rank: int, folder: Path, configs: dict[str, RunConfig[Any]]) -> list[Any]:
    join_group()
    assert run(folder / "twice", configs["twice"], stop_at=2) is None
    return [run(folder / name, config) for name, config in configs.items()]


def test_ranks_that_cannot_hold_the_rest_of_an_epoch_go_on_without_it(tmp_path: Path) -> None:
    """51 samples are six batches in one process, of which the last two share 11; five on two ranks.

    Behind five batches five samples are left, which two ranks can hold.
    """
    random, short = (config_of(m, batch_size=10) for m in ("random", "full-short"))
    stops = {
        "inside": 2 * 6 + 2,
        "twice": 2 * 6 + 2,
        "before the rest": 2 * 6 + 5,
        "at the end": 7 * 6 + 5,
    }
    for name, stop_at in stops.items():
        assert run(tmp_path / name, random, stop_at=stop_at) is None
    assert run(tmp_path / "short", short, stop_at=13) is None  # its epochs of 102 fit
    configs = {**dict.fromkeys(stops, random), "short": short}
    for results in run_ranks(go_on_on_two, tmp_path, tmp_path, configs):
        inside, twice, before_rest, at_end, shortened = results
        for result in (inside, twice):
            assert result["num_steps"] == 2 * 6 + 6 * 5
            assert result["num_backward"] == 2 * 51 + 6 * 50
        assert before_rest["num_steps"] == 3 * 6 + 5 * 5
        assert before_rest["num_backward"] == 3 * 51 + 5 * 50
        assert (at_end["num_steps"], at_end["num_backward"]) == (8 * 6, 8 * 51)
        assert shortened["num_steps"] == 8 * 5  # as a selection has on two ranks
    for name in configs:
        lines = RunFolder(tmp_path / name).metrics()
        assert [line["epoch"] for line in lines] == list(range(len(lines)))
        assert lines[-1]["learning_rate"] < 0.01 * lines[len(lines) // 2]["learning_rate"]


def one_epoch(rank: int, folder: Path) -> tuple[dict[str, torch.Tensor], float]:
    """22 samples in batches of twelve: the last one holds ten, of three ranks four on rank 0.

    Without statistics of a rank's own batch, and without dropout.
    """
    if "RANK" in os.environ:
        join_group()
    recipe = replace(config_of("full").recipe, subset=22, batch_size=12, epochs=1)
    config = RunConfig(recipe=replace(recipe, augment="none"), method="full", keep_ratio=1.0)
    data, cpu = load_task(config.recipe), torch.device("cpu")
    engine = ImageEngine(config, data, RunFolder(folder), device=cpu)
    for module in engine.model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.Dropout):
            module.eval()
    engine.model.train = lambda mode=True: engine.model  # keep them so
    engine.selector.begin_epoch(0)
    assert engine.train_epoch(0, lambda epoch: False)
    assert added_up(engine.ledger.num_backward) == [22]
    return engine.model.state_dict(), float(engine.ledger.loss_sum)


def test_an_uneven_last_batch_weighs_every_sample_alike(tmp_path: Path) -> None:
    shared = run_ranks(one_epoch, tmp_path, tmp_path, world=3)
    weights, loss_sum = one_epoch(0, tmp_path)
    for name, value in weights.items():
        torch.testing.assert_close(shared[0][0][name], value, rtol=1e-5, atol=1e-6)
    assert sum(part for _, part in shared) == pytest.approx(loss_sum)


def refusals(rank: int, folder: Path) -> list[str]:
    join_group()
    said: list[str] = []
    for config in [
        config_of("random", batch_size=15),
        config_of("random", subset=2, keep_ratio=0.5, batch_size=2),
        config_of("infobatch-published"),
    ]:
        data, device = load_task(config.recipe), torch.device("cpu")
        with pytest.raises(DataAgentError) as caught:
            ImageEngine(config, data, RunFolder(folder), device=device)
        said.append(str(caught.value))
    torch.distributed.destroy_process_group()
    with redirect_stderr(StringIO()) as error:
        code = main(["train", *SMALL, "--output", str(folder / "run")])
    return [*said, str(code), error.getvalue()]


def test_what_ranks_cannot_share_is_refused_on_all_of_them(tmp_path: Path) -> None:
    messages = [
        "--batch-size 15 counts the samples of all ranks together, and 2 ranks cannot share it",
        "an epoch would be empty: 1 samples do not fill one batch of 1 on 2 rank",
        "a floating schedule has no fixed number of steps, so ranks cannot share it",
        "2",
    ]
    with open_run(tmp_path / "run", {}, resume=False):  # nobody else may work there
        all_said = run_ranks(refusals, tmp_path, tmp_path)
    ends = ("data-agent: another process", "data-agent, rank 1: rank 0: another process")
    for said, end in zip(all_said, ends, strict=True):
        for found, expected in zip(said, [*messages, f"{end} is working in"], strict=True):
            assert expected in found


@pytest.mark.parametrize("command", [["compare"], ["report", "."]])
def test_only_train_shares_its_work(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(command) == 2
    assert "only train shares its work" in capsys.readouterr().err


def test_ranks_get_devices_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert ranks.choose_device("auto" if not torch.cuda.is_available() else "cpu").type == "cpu"
    with pytest.raises(DataAgentError, match="--device cuda:1 cannot be shared by 2 ranks"):
        ranks.choose_device("cuda:1")


# A method that fails on rank 1 in epoch 4, once.
FAILING = """
import datetime, os, pathlib, signal, time
from data_agent.runtime import distributed
from data_agent.baselines.random import Random
from data_agent_lab.training import ranks

ranks.TIMEOUT = datetime.timedelta(seconds=4)

class Failing(Random):
    name = "failing"

    def record(self, feedback):
        marker = pathlib.Path("failed")
        if self.epoch == 4 and os.environ.get("RANK") == "1" and not marker.exists():
            marker.touch()
            FAIL
        return super().record(feedback)
"""
DIE, HANG = "os.kill(os.getpid(), signal.SIGKILL)", "time.sleep(600)"


@pytest.fixture
def failing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def write(how: str) -> list[str]:
        (tmp_path / "failing.py").write_text(FAILING.replace("FAIL\n", f"{how}\n", 1))
        monkeypatch.chdir(tmp_path)
        return ["train", *SMALL, "--method", "failing:Failing", "--output", "run"]

    return write


def torchrun(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    # The second as docs/distributed.md says, for loops of one's own that are restarted.
    environment = {"OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    if "data_agent_lab.cli" in arguments:
        del environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"]
    environment = {**os.environ, **environment}
    return subprocess.run(
        [*command, *arguments], env=environment, capture_output=True, text=True, timeout=240
    )


def test_torchrun_restarts_a_job_whose_rank_was_killed(failing: Any, tmp_path: Path) -> None:
    argv = failing(DIE)
    done = torchrun("--nproc-per-node=2", "--max-restarts=1", "-m", "data_agent_lab.cli", *argv)
    assert done.returncode == 0, done.stderr
    assert "another rank" not in done.stdout
    assert "50.0 % of the cost of full training" in done.stdout
    folder = RunFolder(tmp_path / "run")
    assert [line["epoch"] for line in folder.metrics()] == list(range(EPOCHS))
    assert [session["num_ranks"] for session in folder.sessions()] == [2, 2]
    assert folder.result()["num_forward"] == 51 * EPOCHS
    assert "one died, hangs, or did not make the same call" in " ".join(done.stderr.split())


def test_a_rank_that_hangs_ends_the_job_within_the_timeout_and_the_rest_goes_on_alone(
    failing: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = failing(HANG)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = [start_rank(argv, number, port) for number in range(2)]
    try:
        wait_until((tmp_path / "failed").exists, "the failure of the other rank")
        start = time.monotonic()
        _, error = processes[0].communicate(timeout=60)
        waited = time.monotonic() - start
    finally:
        processes[1].send_signal(signal.SIGKILL)
        processes[1].communicate()
    assert processes[0].returncode == 2, error
    assert "data-agent: rank 0 waited for the other ranks in training, a step" in error
    assert "Traceback" not in error
    assert waited < 30  # 4 seconds and the time to leave

    state = checkpoint.load(tmp_path / "run" / "checkpoint.safetensors")
    assert state["position"]["epoch"] == 4  # of the last epoch that was over
    assert main([*argv, "--resume"]) == 0  # in this one process
    assert "50.0 % of the cost" in capsys.readouterr().out
    assert len(RunFolder(tmp_path / "run").metrics()) == EPOCHS


def start_rank(argv: list[str], number: int, port: int) -> subprocess.Popen[str]:
    names = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": 2, "MASTER_PORT": port}
    environment = {name: str(value) for name, value in names.items()}
    return subprocess.Popen(
        [sys.executable, "-m", "data_agent_lab.cli", *argv],
        env={**os.environ, **environment, "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


# The example, whose rank 1 is killed once, after the third checkpoint.
KILLED_ONCE = """
import os, pathlib, runpy, signal, sys
from data_agent import DataAgent

whole = DataAgent.state_dict
def state_dict(self):
    state = whole(self)
    marker = pathlib.Path("killed")
    if os.environ["RANK"] == "1" and self.epoch == 3 and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return state
DataAgent.state_dict = state_dict
runpy.run_path(sys.argv[1], run_name="__main__")
"""


@pytest.mark.parametrize("name", ["ddp", "fsdp"])
def test_the_examples_go_on_after_a_kill(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = Path(__file__).parents[3] / "examples" / f"{name}_loop.py"
    (tmp_path / "killed_once.py").write_text(KILLED_ONCE)
    monkeypatch.chdir(tmp_path)
    done = torchrun("--nproc-per-node=2", "--max-restarts=1", "killed_once.py", str(example))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "killed").exists()
    assert "epoch 10/10" in done.stdout
    state = torch.load(tmp_path / f"{name}.ckpt", weights_only=True)
    assert sum(tensor.numel() for tensor in state["model"].values()) == 354  # of both ranks
    assert state["agent"]["visits"] == 2560  # ten epochs of 256, none lost, none twice
    json.dumps(state["agent"]["settings"])
