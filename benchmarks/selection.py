"""What choosing an epoch's samples costs: processor time, peak memory, and bytes a sample.

    python benchmarks/selection.py                   # table, and benchmarks/results/selection.json
    python benchmarks/selection.py --sizes 1e6 1e7 --repeats 3

For the policy and for label rules (1,000 classes, a quarter of the labels doubted), keep ratio 0.5,
in a process of its own for each size: `begin_epoch` of a selected epoch, all parts of it, once with
nothing to learn from and once with a row of feedback for every sample of the epoch before; and
`choose` alone. Beside it, in the same process, what a plain implementation does, up to 10^7
samples: it draws exact Beta actions for all and sorts them; for label rules it sorts by class and
order. Processor time, of one thread, because it depends less on what else runs.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
import warnings
from pathlib import Path

import torch

from data_agent import DataAgent, Selector
from data_agent.labels.label_aware import LabelAware
from data_agent.selecting.columns import VALUES
from data_agent_lab.runs.environment import describe_environment

SIZES = [1e6, 1e7, 1e8]
PLAIN_UP_TO = 10**7
NUM_CLASSES = 1000
EPOCHS, FIRST = 16, 3  # the first epoch that begins here: a selected one


def build(kind: str, num_samples: int) -> Selector:
    """A selector without the numbers of samples, as it is by default of so many."""
    options = {"keep_ratio": 0.5, "sample_statistics": False}
    if kind == "policy":
        return DataAgent(num_samples, EPOCHS, **options)
    selector = LabelAware(num_samples=num_samples, epochs=EPOCHS, **options)
    selector._tables[0]._num_classes = NUM_CLASSES
    return selector


def rows_of(kind: str, index: torch.Tensor) -> dict[str, torch.Tensor]:
    """What a batch could have shown, as it is staged."""
    draws, size = torch.Generator().manual_seed(0), len(index)
    if kind == "policy":
        return {VALUES: 1 + 9 * torch.rand(size, 2, generator=draws)}
    is_last = torch.rand(size, generator=draws) < 0.25 / (NUM_CLASSES - 1)
    return {
        VALUES: torch.empty(size, 0),
        "labels.label": (index * 7919 % NUM_CLASSES).int(),
        "labels.margin": torch.randint(-127, 128, (size,), dtype=torch.int8, generator=draws),
        "labels.signs": torch.where(is_last, 127, 128).to(torch.uint8),
    }


def feed(selector: Selector, kind: str, index: torch.Tensor) -> None:
    """Let the running epoch be over, with a row of feedback for each of `index`."""
    running = selector._running
    running.observed.marks.fill_(True)
    running.num_observed = len(running.selection)
    if len(index):
        selector._recorder.staging.append(index, rows_of(kind, index))


def fill(selector: Selector, kind: str) -> None:
    """Merge a row of every sample of the rank's own, a part of them at a time."""
    shard = selector._shard
    for places in torch.arange(shard.size(selector.schedule.num_samples)).split(1 << 22):
        selector._recorder.staging.append(shard.samples(places), rows_of(kind, places))
        selector._recorder.merge(shard)
        selector._recorder.staging.clear()


def bytes_of(state: object) -> int:
    """Bytes of all tensors in a nested state."""
    if isinstance(state, torch.Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, dict):
        return sum(bytes_of(value) for value in state.values())
    return 0


def plain_choice(kind: str, num_samples: int) -> None:
    """What the shortest program does."""
    draws = torch.Generator().manual_seed(0)
    if kind == "policy":
        first, second = torch._standard_gamma(torch.full((2, num_samples), 3.0), generator=draws)
        (first / (first + second)).sort(descending=True).indices[: num_samples // 2].sort()
    else:
        order = torch.randperm(num_samples, generator=draws)
        order[(order * 7919 % NUM_CLASSES).argsort(stable=True)].reshape(NUM_CLASSES, -1)


def seconds(call, repeats: int) -> float:
    """The least processor time of `call`."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return min(times)


def peak_gigabytes() -> float:
    """The most memory that this process had so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def measure(kind: str, num_samples: int, repeats: int) -> dict:
    """Seconds of processor time, gigabytes, and bytes a sample."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # nothing was learned in the epochs before the first
    selector = build(kind, num_samples)
    fill(selector, kind)
    selector.begin_epoch(FIRST)
    epochs = iter(range(FIRST + 1, EPOCHS - EPOCHS // 8))
    nothing = torch.empty(0, dtype=torch.int64)

    def begin_next(index: torch.Tensor) -> float:
        feed(selector, kind, index)
        epoch = next(epochs)
        return seconds(lambda: selector.begin_epoch(epoch), 1)

    row = {"kind": kind, "num_samples": num_samples}
    row["begin_seconds"] = min(begin_next(nothing) for _ in range(repeats))
    row["peak_gigabytes"] = peak_gigabytes()
    taken = torch.zeros(num_samples, dtype=torch.bool)
    count = num_samples // 2
    row["choose_seconds"] = seconds(lambda: selector.choose(FIRST, count, taken), repeats)
    index = selector.select(selector.epoch).index
    order = torch.randperm(len(index), generator=torch.Generator().manual_seed(0))
    row["merge_and_begin_seconds"] = begin_next(index[order])
    if num_samples <= PLAIN_UP_TO:
        row["plain_seconds"] = seconds(lambda: plain_choice(kind, num_samples), repeats)
    state = selector.state_dict()
    state = [state["tables"], state["method"], state["running"]]
    row["bytes_per_sample"] = sum(map(bytes_of, state)) / num_samples
    return row


def main() -> None:
    """Measure all sizes, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=float, nargs="+", default=SIZES)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/selection.json"))
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        kind, size = options.one
        print(json.dumps(measure(kind, int(float(size)), options.repeats)))
        return
    rows = []
    print("kind    samples      begin s  choose s  merge + begin s   plain s  peak GB  bytes")
    for kind in ("policy", "labels"):
        for size in options.sizes:
            command = [sys.executable, __file__, "--one", kind, str(size)]
            command += ["--repeats", str(options.repeats)]
            said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            row = json.loads(said.splitlines()[-1])
            rows.append(row)
            print(
                f"{kind} {row['num_samples']:13,} {row['begin_seconds']:9.3f} "
                f"{row['choose_seconds']:9.3f} {row['merge_and_begin_seconds']:16.3f} "
                f"{row.get('plain_seconds', float('nan')):9.3f} {row['peak_gigabytes']:8.2f} "
                f"{row['bytes_per_sample']:6.2f}",
                flush=True,
            )
    result = {"environment": describe_environment("cpu"), "keep_ratio": 0.5, "rows": rows}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {options.output}")


if __name__ == "__main__":
    main()
