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


def train(rank: int, argv: list[str]) -> int:
    return main(argv) or 0


@pytest.mark.parametrize("method", ["random", "data-agent"])
def test_two_ranks_keep_the_budget_of_one_and_learn_as_much(
    argv: list[str], method: str, tmp_path: Path
) -> None:
    argv += ["--method", method]
    ends = run_ranks(train, tmp_path, [*argv, "--output", str(tmp_path / "two")])
    assert ends == [0, 0]
    assert main([*argv, "--output", str(tmp_path / "one")]) in (0, None)
    two, one = (RunFolder(tmp_path / name).result() for name in ("two", "one"))
    assert [session["num_ranks"] for session in RunFolder(tmp_path / "two").sessions()] == [2]
    for name in ("num_steps", "num_forward", "num_backward", "cost", "num_eval_samples"):
        assert two[name] == one[name], name
    assert two["num_forward"] == SIZE // 2 * EPOCHS
    same: Any = pytest.approx(one["eval_loss"], rel=1e-3 if method == "random" else 0.05)
    assert two["eval_loss"] == same
