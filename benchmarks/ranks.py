"""Do several ranks learn equally well? The lab under torchrun on 1, 2 and 4 ranks, several seeds.

    python benchmarks/ranks.py          # table, and benchmarks/results/ranks.json

Every run has the same global batch, budget and number of optimizer steps. What differs: batch
normalisation sees a rank's own batch, dropout and the agent's actions are drawn on each rank. What
the first alone does is shown by "parts": one process whose batch normalisation sees a quarter of
the batch at a time, as each of four ranks does.
"""

import argparse
import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, cat, nn

from data_agent.runtime.files import write_json
from data_agent_lab.recipes import RunConfig
from data_agent_lab.results.statistics import estimate
from data_agent_lab.runs.environment import describe_environment
from data_agent_lab.runs.folder import open_run
from data_agent_lab.tasks import load_task, recipe_for
from data_agent_lab.training.run import train_run

WORLDS = (1, 2, 4)
METHODS = ("random", "data-agent")
RECIPE = ["--task", "digits", "--keep-ratio", "0.5", "--device", "cpu", "--num-threads", "1"]


def train(folder: Path, method: str, seed: int, world: int, kind: str, epochs: int) -> dict:
    """The result of one run, in processes of its own; a run that was begun goes on."""
    if kind == "parts":
        return train_in_parts(folder, method, seed, epochs)
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}"]
    command = [
        sys.executable,
        *(launcher if world > 1 else []),
        "-m",
        "data_agent_lab.cli",
        "train",
    ]
    command += [*RECIPE, "--epochs", str(epochs), "--method", method, "--seed", str(seed)]
    command += ["--output", str(folder), "--resume"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return json.loads((folder / "result.json").read_text())


def train_in_parts(folder: Path, method: str, seed: int, epochs: int) -> dict:
    """The result of one run in this process, its batch normalisation as on four ranks."""
    recipe = recipe_for("digits")
    recipe = replace(recipe, device="cpu", num_threads=1, epochs=epochs)
    config = RunConfig(recipe=recipe, method=method, seed=seed)
    with open_run(folder, config.flat(), resume=True) as run, normalised_in_parts(max(WORLDS)):
        return train_run(config, load_task(recipe), run) or {}


@contextlib.contextmanager
def normalised_in_parts(count: int) -> Iterator[None]:
    """Batch normalisation in training takes `count` parts of a batch each by itself.

    Running statistics are those of the first part, as they are those of rank 0.
    """
    whole = nn.BatchNorm2d.forward

    def forward(norm: nn.BatchNorm2d, batch: Tensor) -> Tensor:
        if not norm.training or len(batch) < count:
            return whole(norm, batch)
        first, *others = batch.tensor_split(count)
        parts = [
            F.batch_norm(part, None, None, norm.weight, norm.bias, training=True, eps=norm.eps)
            for part in others
        ]
        return cat([whole(norm, first), *parts])

    nn.BatchNorm2d.forward = forward
    try:
        yield
    finally:
        nn.BatchNorm2d.forward = whole


def main() -> None:
    """Train every cell, print it, and write all values."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--folder", type=Path, default=Path("runs/ranks"))
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/ranks.json"))
    arguments = parser.parse_args()
    rows: list[dict] = []
    cells = [(w, "ddp") for w in WORLDS] + [(1, "parts")]
    for method in METHODS:
        for world, kind in cells:
            results = [
                train(
                    arguments.folder / f"{method}-{world}-{kind}-{seed}",
                    *(method, seed, world, kind, arguments.epochs),
                )
                for seed in range(arguments.seeds)
            ]
            values = [result["value"] for result in results]
            alone = next((row["values"] for row in rows if row["method"] == method), values)
            apart = estimate([one - other for one, other in zip(values, alone, strict=True)])
            row = {
                **{"method": method, "ranks": world, "kind": kind, "values": values},
                "to_one_rank": {"mean": apart.mean, "half_width": apart.half_width},
                "num_steps": sorted({result["num_steps"] for result in results}),
                "num_backward": sorted({result["num_backward"] for result in results}),
            }
            rows.append(row)
            mean = estimate(values)
            print(
                f"{method:<12} {world} {kind:<5} {mean.mean:.2f} +- {mean.half_width:.2f}, "
                f"to one rank {apart.mean:+.2f} +- {apart.half_width:.2f}",
                flush=True,
            )
    environment = describe_environment("cpu")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    recipe = [*RECIPE, "--epochs", str(arguments.epochs)]
    write_json(arguments.output, {"environment": environment, "recipe": recipe, "rows": rows})


if __name__ == "__main__":
    main()
