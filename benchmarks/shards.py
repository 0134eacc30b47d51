"""What a rank's share of a sharded table costs: one rank of many, simulated alone.

    python benchmarks/shards.py                      # the last of 64 that share 10^9 samples
    python benchmarks/shards.py --samples 1e8 --ranks 8

Prints and writes JSON: processor time of one thread for choosing, for beginning a selected epoch
with nothing to learn from, and with a row of feedback for every sample of the epoch before; the
most memory; what is kept and saved. Ranks exchange nothing of the table, so that a rank alone takes
as long for it as one of many; what the policy exchanges is not in here.
"""

import argparse
import io
import json
import time
import warnings
from pathlib import Path
from unittest.mock import patch

import torch
from selection import EPOCHS, FIRST, bytes_of, feed, fill, peak_gigabytes, seconds

from data_agent import DataAgent
from data_agent.runtime.shards import Shard
from data_agent_lab.runs.environment import describe_environment

BATCH_SIZE = 256


def build(num_samples: int, shard: Shard) -> DataAgent:
    """A rank's policy, whose table has seen every sample of its own."""
    with patch("data_agent.selecting.selector.own_shard", lambda: shard):
        agent = DataAgent(
            num_samples, EPOCHS, keep_ratio=0.5, sharded=True, sample_statistics=False
        )
    agent.use_loader(BATCH_SIZE, world=shard.world)
    fill(agent, "policy")
    return agent


def measure(num_samples: int, shard: Shard, repeats: int) -> dict:
    """Seconds of processor time, gigabytes, bytes a sample of the shard."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # nothing was learned in the epochs before the first
    agent = build(num_samples, shard)
    own = agent.own
    agent.begin_epoch(FIRST)
    epochs = iter(range(FIRST + 1, EPOCHS - EPOCHS // 8))

    def begin_next(index: torch.Tensor) -> float:
        feed(agent, "policy", index)
        epoch = next(epochs)
        return seconds(lambda: agent.begin_epoch(epoch), 1)

    nothing = torch.empty(0, dtype=torch.int64)
    begin = min(begin_next(nothing) for _ in range(repeats))
    taken = torch.zeros(own.num_samples, dtype=torch.bool)
    choose = seconds(lambda: agent.choose(FIRST, own.num_kept, taken), repeats)
    index = agent.select(agent.epoch).index
    assert bool((index % shard.world == shard.rank).all())
    order = torch.randperm(len(index), generator=torch.Generator().manual_seed(0))
    merge = begin_next(index[order])
    state, file, start = agent.state_dict(), io.BytesIO(), time.process_time()
    torch.save(state, file)
    num_bytes = sum(map(bytes_of, (state["method"], state["running"])))
    return {
        "num_samples": num_samples,
        "ranks": shard.world,
        "own_samples": own.num_samples,
        "own_samples_an_epoch": own.num_kept,
        "steps_an_epoch": agent.schedule.steps(FIRST),
        "choose_seconds": choose,
        "begin_seconds": begin,
        "merge_and_begin_seconds": merge,
        "save_seconds": time.process_time() - start,
        "saved_bytes": file.tell(),
        "bytes_per_own_sample": num_bytes / own.num_samples,
        "peak_gigabytes": peak_gigabytes(),
    }


def main() -> None:
    """Measure one rank, print and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=float, default=1e9)
    parser.add_argument("--ranks", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/shards.json"))
    options = parser.parse_args()
    shard = Shard(options.ranks - 1, options.ranks)
    found = measure(int(options.samples), shard, options.repeats)
    result = {"environment": describe_environment("cpu"), "keep_ratio": 0.5, **found}
    options.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
