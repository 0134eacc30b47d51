"""Do several ranks learn equally well? The lab under torchrun on 1, 2 and 4 ranks, several seeds.

    python benchmarks/ranks.py          # table, and benchmarks/results/ranks.json

Every run has the same global batch, budget and number of optimizer steps. What differs: batch
normalisation sees a rank's own batch, dropout and the agent's actions are drawn on each rank.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from data_agent._files import write_json
from data_agent.lab.environment import describe_environment
from data_agent.lab.statistics import estimate

WORLDS = (1, 2, 4)
METHODS = ("random", "data-agent")
RECIPE = ["--task", "digits", "--keep-ratio", "0.5", "--device", "cpu", "--num-threads", "1"]


def train(folder: Path, method: str, seed: int, world: int, sharding: str, epochs: int) -> dict:
    """The result of one run, in processes of their own; a run that was there goes on."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}"]
    command = [sys.executable, *(launcher if world > 1 else []), "-m", "data_agent.cli", "train"]
    command += [*RECIPE, "--epochs", str(epochs), "--method", method, "--seed", str(seed)]
    command += ["--sharding", sharding, "--output", str(folder), "--resume"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return json.loads((folder / "result.json").read_text())


def main() -> None:
    """Train every cell, print it, and write all values."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--folder", type=Path, default=Path("runs/ranks"))
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/ranks.json"))
    arguments = parser.parse_args()
    rows: list[dict] = []
    cells = [(w, "ddp") for w in WORLDS] + [(2, "fsdp")]
    for method in METHODS:
        for world, sharding in cells:
            results = [
                train(
                    arguments.folder / f"{method}-{world}-{sharding}-{seed}",
                    *(method, seed, world, sharding, arguments.epochs),
                )
                for seed in range(arguments.seeds)
            ]
            values = [result["value"] for result in results]
            row = {
                **{"method": method, "ranks": world, "sharding": sharding, "values": values},
                "num_steps": sorted({result["num_steps"] for result in results}),
                "num_backward": sorted({result["num_backward"] for result in results}),
            }
            rows.append(row)
            mean = estimate(values)
            print(
                f"{method:<12} {world} {sharding:<5} {mean.mean:.2f} +- {mean.half_width:.2f}",
                flush=True,
            )
    environment = describe_environment("cpu")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    recipe = [*RECIPE, "--epochs", str(arguments.epochs)]
    write_json(arguments.output, {"environment": environment, "recipe": recipe, "rows": rows})


if __name__ == "__main__":
    main()
