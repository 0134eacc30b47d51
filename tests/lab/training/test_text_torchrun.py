"""Language tasks on two real processes, as `torchrun` starts them, against one process."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from ranks import run_ranks

from data_agent_lab.cli import main
from data_agent_lab.runs.folder import RunFolder

pytestmark = pytest.mark.distributed

SIZE, EPOCHS = 48, 4
WORDS = ["red", "green", "blue", "one", "two", "three", "cat", "dog", "sun", "moon"]


@pytest.fixture
def argv(tmp_path: Path) -> list[str]:
    """A small instruction-tuning run; a Llama-style model draws no random numbers in training."""
    draw = random.Random(0)
    data = tmp_path / "data"
    data.mkdir()
    for split, size in (("train", SIZE), ("validation", 15)):
        rows = [draw.choices(WORDS, k=draw.randint(3, 9)) for _ in range(size)]
        texts = [{"prompt": " ".join(row), "completion": " ".join(row[::-1])} for row in rows]
        (data / f"{split}.jsonl").write_text("\n".join(json.dumps(row) for row in texts))
    return [
        *("train", "--task", "sft", "--data", str(data), "--model", "llama-32x1"),
        *("--vocab-size", "300", "--max-length", "64", "--epochs", str(EPOCHS)),
        *("--batch-size", "8", "--learning-rate", "3e-3", "--device", "cpu"),
    ]


def train(rank: int, commands: list[list[str]]) -> list[int | None]:
    return [main(argv) for argv in commands]


def test_two_ranks_keep_the_budget_of_one_and_learn_as_much(
    argv: list[str], tmp_path: Path
) -> None:
    methods = {"random": 1e-3, "data-agent": 0.05}  # and how far apart their losses may be
    commands = [
        [*argv, "--method", name, "--output", str(tmp_path / "two" / name)] for name in methods
    ]
    assert run_ranks(train, tmp_path, commands) == [[0, 0]] * 2
    for name, tolerance in methods.items():
        command = [*argv, "--method", name, "--output", str(tmp_path / "one" / name)]
        assert main(command) in (0, None)
        two, one = (RunFolder(tmp_path / number / name) for number in ("two", "one"))
        assert [session["num_ranks"] for session in two.sessions()] == [2]
        for key in ("num_steps", "num_forward", "num_backward", "cost", "num_eval_samples"):
            assert two.result()[key] == one.result()[key], key
        assert two.result()["num_forward"] == SIZE // 2 * EPOCHS
        same: Any = pytest.approx(one.result()["eval_loss"], rel=tolerance)
        assert two.result()["eval_loss"] == same
