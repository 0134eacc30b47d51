"""How long it takes to choose an epoch's samples, and how many bytes a sample costs.

    python benchmarks/selection.py               # table, and benchmarks/results/selection.json

Measured beside it, in the same run: drawing exact Beta actions for all samples and sorting them,
which is what a plain implementation does.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from data_agent import DataAgent
from data_agent.agent.agent import _queued_again
from data_agent.agent.table import _beta_draws
from data_agent_lab.runs.environment import describe_environment

SIZES = [100_000, 1_000_000, 10_000_000]


def seconds(call, repeats: int) -> float:
    """Median time of `call`."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def bytes_of(state: object) -> int:
    """Bytes of all tensors in a nested state."""
    if isinstance(state, torch.Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, dict):
        return sum(bytes_of(value) for value in state.values())
    return sum(bytes_of(v) for v in state) if isinstance(state, list) else 0


def measure(num_samples: int, *, repeats: int) -> dict:
    """Times in seconds, sizes in bytes a sample."""
    agent = DataAgent(num_samples, 16, keep_ratio=0.5)
    draws = torch.Generator().manual_seed(0)
    parameters = 1 + 9 * torch.rand(num_samples, 2, generator=draws)
    table = agent._table
    merge = seconds(lambda: table.merge(torch.arange(num_samples), parameters), 1)
    taken = torch.zeros(num_samples, dtype=torch.bool)
    count = num_samples // 2

    def plain() -> None:
        alpha, beta = parameters.unbind(1)
        scores = _beta_draws(alpha, beta, torch.Generator().manual_seed(0))
        scores.sort(descending=True).indices[:count].sort()

    choose = seconds(lambda: agent.choose(3, count, taken), repeats)
    plain_seconds = seconds(plain, repeats)
    agent.begin_epoch(3)
    queue = seconds(lambda: _queued_again(agent._queue, agent._running.selection.index), repeats)
    state = agent.state_dict()
    at_rest = bytes_of([state["method"]["table"], state["method"]["queue"], state["running"]])
    running = agent._running
    in_epoch = bytes_of(
        [table.state_dict(), agent._queue, running.selection.index, running.uniform]
    )
    return {
        "num_samples": num_samples,
        "choose_seconds": round(choose, 4),
        "plain_seconds": round(plain_seconds, 4),
        "plain_over_ours": round(plain_seconds / choose, 2),
        "merge_seconds": round(merge, 4),
        "queue_seconds": round(queue, 4),
        "saved_bytes_per_sample": round(at_rest / num_samples, 3),
        "memory_bytes_per_sample": round(in_epoch / num_samples, 3),
        "draws": "exact Beta" if num_samples <= 1_000_000 else "logit-normal",
    }


def main() -> None:
    """Measure all sizes, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/selection.json"))
    options = parser.parse_args()
    rows = []
    print("    samples  choose s   plain s  ratio  merge s  queue s  saved B  memory B")
    for num_samples in SIZES:
        row = measure(num_samples, repeats=options.repeats)
        rows.append(row)
        print(
            f"{num_samples:11,} {row['choose_seconds']:9.3f} {row['plain_seconds']:9.3f} "
            f"{row['plain_over_ours']:6.1f} {row['merge_seconds']:8.3f} "
            f"{row['queue_seconds']:8.3f} {row['saved_bytes_per_sample']:8.2f} "
            f"{row['memory_bytes_per_sample']:9.2f}",
            flush=True,
        )
    result = {"environment": describe_environment("cpu"), "keep_ratio": 0.5, "rows": rows}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {options.output}")


if __name__ == "__main__":
    main()
