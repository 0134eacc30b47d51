"""What benchmarks/kills.py kills, and how each of them is started again."""

from __future__ import annotations

import argparse
import os
import runpy
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

PAGE = Path(__file__).parents[1] / "docs" / "interruption.md"
_SMALL = (
    *("--task", "digits", "--width", "4", "--num-evaluations", "4"),
    *("--device", "cpu", "--num-threads", "1"),
)
_TORCHRUN = (
    *("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
    *("--max-restarts", "3"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """What is killed.

    Args:
        command: what starts it, or goes on, in a folder.
        runs: the folders below where it writes.
        kinds: how it is killed, in turn.
        result: the file in each of `runs` that is written last.
    """

    command: Callable[[Path], list[str]]
    runs: Sequence[str]
    kinds: Sequence[str]
    result: str


def lab(
    *arguments: str,
    runs: Sequence[str] = (".",),
    launcher: Sequence[str] = (),
    kinds: Sequence[str] = ("anywhere", "writing", "asked", "anywhere", "writing", "starting"),
) -> Subject:
    """A subject of the lab; --resume is right for a new folder too."""
    return Subject(
        command=lambda folder: [
            *(sys.executable, *launcher, "-m", "data_agent_lab.cli", *arguments),
            *("--output", str(folder), "--resume"),
        ],
        runs=runs,
        kinds=kinds,
        result="result.json",
    )


def subjects(epochs: int) -> dict[str, Subject]:
    """The four subjects, in runs of so many epochs."""
    size = ["--epochs", str(epochs)]
    methods = ["--methods", "random,data-agent", "--seeds", "1", "--jobs", "2"]
    names = ["digits/random-keep0.5-seed0", "digits/data-agent-keep0.5-seed0"]
    return {
        "train": lab("train", *_SMALL, *size, "--method", "data-agent"),
        "ranks": lab(
            *("train", *_SMALL, *size, "--method", "data-agent"),
            launcher=_TORCHRUN,
            kinds=("rank", "writing", "rank", "anywhere"),
        ),
        "compare": lab("compare", *_SMALL, *size, *methods, runs=names),
        "loop": Subject(
            command=lambda folder: [sys.executable, __file__, str(folder), *size],
            runs=["."],
            kinds=("anywhere", "writing", "starting"),
            result="done",
        ),
    }


def plain_loop(folder: Path, epochs: int) -> None:
    """Train as docs/interruption.md shows, with what that page takes for granted."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "started").write_text(str(os.getpid()))
    torch.manual_seed(0)
    torch.set_num_threads(1)
    images = torch.randn(448, 64)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 10))
    _, _, code = PAGE.read_text(encoding="utf-8").partition("```python\n")
    script = folder / "loop.py"
    script.write_text(code.partition("```")[0], encoding="utf-8")
    runpy.run_path(
        str(script),
        init_globals={
            "train_set": TensorDataset(images, images[:, :10].argmax(1)),
            "model": model,
            "head": model[3],
            "optimizer": torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
            "epochs": epochs,
            "path": folder / "state.pt",
            "F": F,
        },
    )
    (folder / "done").touch()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="The plain loop, in a folder.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, required=True)
    options = parser.parse_args()
    plain_loop(options.folder, options.epochs)
