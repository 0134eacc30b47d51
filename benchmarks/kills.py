"""Kill training at random moments, go on, and compare the end with a run that nobody killed.

    python benchmarks/kills.py                       # 100 kills, 15 to 30 minutes on two cores
    python benchmarks/kills.py --kills loop=5        # a quick look

Three subjects: `data-agent train`, `data-agent compare` with worker processes, and the plain
PyTorch loop of docs/interruption.md, whose loader has worker processes. All augment at random.
SIGKILL goes to the whole process group at a moment drawn by (seed, subject, number of the kill):

    starting  before training begins
    anywhere  while it trains
    writing   while a checkpoint's temporary file is there
    asked     SIGTERM first, as schedulers do, which makes the lab save inside an epoch

Then the same command goes on. A run that ends is compared with the undisturbed one: every bit of
model, optimizer, selector, random state, metrics and result, and the names of all files. Killed
itself, this program goes on where it was.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

from data_agent import _checkpoint as checkpoint
from data_agent._files import write_json
from data_agent.lab.environment import describe_environment

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "interruption.md"
DEFAULT_KILLS = "train=60,loop=25,compare=15"
PATIENCE = 300.0  # seconds after which a session that does not get on is a hang
_CLOCKS = ("seconds", "overhead")
_SMALL = (
    *("--task", "digits", "--width", "4", "--num-evaluations", "4"),
    *("--device", "cpu", "--num-threads", "1"),
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


def lab(*arguments: str, runs: Sequence[str]) -> Subject:
    """A subject of the lab; --resume is right for a new folder too."""
    code = "import sys; from data_agent.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, *arguments]
    return Subject(
        command=lambda folder: [*command, "--output", str(folder), "--resume"],
        runs=runs,
        kinds=("anywhere", "writing", "asked", "anywhere", "writing", "starting"),
        result="result.json",
    )


def subjects(epochs: int) -> dict[str, Subject]:
    """The three subjects, in runs of so many epochs."""
    size = ["--epochs", str(epochs)]
    methods = ["--methods", "random,data-agent", "--seeds", "1", "--jobs", "2"]
    names = ["digits/random-keep0.5-seed0", "digits/data-agent-keep0.5-seed0"]
    return {
        "train": lab("train", *_SMALL, *size, "--method", "data-agent", runs=["."]),
        "compare": lab("compare", *_SMALL, *size, *methods, runs=names),
        "loop": Subject(
            command=lambda folder: [sys.executable, __file__, "--loop", str(folder), *size],
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


@dataclass(slots=True)
class Session:
    """One life of a subject: from its start to its end, or to its kill."""

    subject: Subject
    folder: Path
    process: subprocess.Popen[bytes]
    born: int  # nanoseconds, as files are dated

    def is_over(self) -> bool:
        """Whether it ended by itself."""
        return self.process.poll() is not None

    def has_begun(self) -> bool:
        """Whether it wrote anything, which is the first it does when it trains."""
        return any(entry.stat().st_mtime_ns > self.born for entry in entries(self))

    def is_writing(self) -> bool:
        """Whether the temporary file of a checkpoint is there."""
        return any(is_temporary(entry.name) for entry in entries(self))

    def wait(self, condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
        """Until then, or until it is over; as often as there is time."""
        end = time.monotonic() + seconds
        while not self.is_over() and not condition():
            if time.monotonic() > end:
                raise TimeoutError(f"{self.folder} does not get on: a hang.")
            time.sleep(0.0005)

    def signal(self, number: int) -> None:
        """To all of its processes."""
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            return

    def end(self) -> int:
        """Kill what is left of it; returns its exit code."""
        self.signal(signal.SIGKILL)
        self.process.communicate()
        return self.process.returncode


def begin(subject: Subject, folder: Path) -> Session:
    """Start it, or let it go on, in a process group of its own."""
    log = (folder.parent / f"{folder.name}.log").open("ab")
    with log:
        process = subprocess.Popen(
            subject.command(folder), stdout=log, stderr=log, start_new_session=True
        )
    return Session(subject, folder, process, time.time_ns())


def entries(session: Session) -> Iterator[os.DirEntry[str]]:
    """The files in its runs' folders; they come and go."""
    for run in session.subject.runs:
        try:
            with os.scandir(session.folder / run) as found:
                for entry in found:
                    try:
                        entry.stat()
                    except FileNotFoundError:
                        continue
                    yield entry
        except FileNotFoundError:
            continue


def is_temporary(name: str) -> bool:
    """Of a checkpoint that is being written."""
    return name.startswith(".checkpoint") or name == "state.tmp"


def kill(session: Session, kind: str, draws: random.Random, seconds: float) -> None:
    """End a session in this way; `seconds` is about how long a whole run trains."""
    if kind == "starting":
        time.sleep(draws.uniform(0, 3))
        return
    session.wait(session.has_begun)
    if kind == "writing":
        for _ in range(draws.randrange(1, 6)):
            session.wait(lambda: not session.is_writing())
            session.wait(session.is_writing)
        time.sleep(draws.uniform(0, 0.003))
        return
    pause_until = time.monotonic() + draws.uniform(0, seconds / 4)
    session.wait(lambda: time.monotonic() > pause_until)
    if kind == "asked":
        session.signal(signal.SIGTERM)
        patience_until = time.monotonic() + draws.choice([0.05, PATIENCE, PATIENCE])
        session.wait(lambda: time.monotonic() > patience_until)


def what_is_left(session: Session) -> dict[str, Any]:
    """What a kill left behind: half of a file, and where to go on."""
    names = {entry.name for entry in entries(session)}
    states: list[dict[str, Any]] = []
    for run in session.subject.runs:
        for name, key in (("checkpoint.safetensors", "selector"), ("state.pt", "agent")):
            if (path := session.folder / run / name).is_file():
                states.append(content_of(path)[key])
    running = [state["running"] for state in states if state["running"]]
    sizes = [np.unpackbits(epoch["selection"].numpy()).sum() for epoch in running]
    return {
        "left_temporary": any(map(is_temporary, names)),
        "inside_an_epoch": any(
            epoch["position"] < size for epoch, size in zip(running, sizes, strict=True)
        ),
    }


def outcome(subject: Subject, folder: Path) -> dict[str, str]:
    """Every file of the run, and a digest of all in it that is no clock's."""
    found: dict[str, str] = {}
    for run in subject.runs:
        for path in sorted((folder / run).iterdir()):
            found[f"{run}/{path.name}"] = digest(content_of(path))
    return found


def content_of(path: Path) -> Any:
    """What a file holds; None where its name is all that must be equal."""
    if path.suffix == ".safetensors":
        return checkpoint.load(path)
    if path.suffix == ".pt":
        return torch.load(path, weights_only=True)
    if path.name == "metrics.jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if path.name in ("result.json", "config.json"):
        return json.loads(path.read_text(encoding="utf-8"))
    return None  # what it ran on, and when: of each session


def digest(value: Any) -> str:
    """Of nested content, leaving out what depends on the clock."""
    return hashlib.sha256(b"\n".join(leaves(value, "root"))).hexdigest()


def leaves(value: Any, where: str) -> Iterator[bytes]:
    """A line for each value that a container holds."""
    if isinstance(value, dict):
        for key, item in value.items():
            if not any(clock in str(key) for clock in _CLOCKS):
                yield from leaves(item, f"{where}/{key}")
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from leaves(item, f"{where}/{number}")
    elif isinstance(value, torch.Tensor):
        data = value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        yield f"{where} {value.dtype} {list(value.shape)} ".encode() + data
    else:
        yield f"{where} {value!r}".encode()


def undisturbed(subject: Subject, folder: Path) -> tuple[dict[str, str], float]:
    """A run's outcome, and the seconds from the first it writes to its end."""
    session = begin(subject, folder)
    session.wait(session.has_begun)
    began = time.monotonic()
    session.wait(lambda: False)
    seconds = time.monotonic() - began
    check_end(session, session.end())
    return outcome(subject, folder), seconds


def check_end(session: Session, code: int) -> bool:
    """Whether the run is finished, and not killed or stopped when asked to.

    Raises:
        RuntimeError: it failed.
    """
    if code not in (0, 130, -signal.SIGKILL, -signal.SIGTERM):
        log = session.folder.parent / f"{session.folder.name}.log"
        raise RuntimeError(f"exit code {code}: {log.read_text(errors='replace')[-2000:]}")
    return code == 0


def torment(
    name: str, subject: Subject, root: Path, *, num_kills: int, seed: int, record: dict[str, Any]
) -> None:
    """Kill a subject so often, in one run after the other, and let the last one end.

    Args:
        name: of the subject.
        subject: what is killed.
        root: folder for its runs.
        num_kills: how often.
        seed: of kinds and moments.
        record: what came of it, added to; what is there already is not done again.
    """
    root.mkdir(parents=True, exist_ok=True)
    if name not in record["undisturbed"]:
        shutil.rmtree(root / "undisturbed", ignore_errors=True)  # half of one is not undisturbed
        record["undisturbed"][name] = undisturbed(subject, root / "undisturbed")
    expected, seconds = record["undisturbed"][name]
    kills: list[dict[str, Any]] = record["kills"].setdefault(name, [])
    ends: list[dict[str, Any]] = record["ends"].setdefault(name, [])
    while len(kills) < num_kills or (ends and ends[-1]["num_kills"] < len(kills)) or not ends:
        session = begin(subject, root / f"run{len(ends)}")
        kind = subject.kinds[len(kills) % len(subject.kinds)]
        if len(kills) < num_kills:
            kill(session, kind, random.Random(f"{seed} {name} {len(kills)}"), seconds)
        else:
            session.wait(lambda: False)
        if check_end(session, session.end()):
            found = outcome(subject, session.folder)
            differing = sorted(n for n in found | expected if found.get(n) != expected.get(n))
            ends.append({"num_kills": len(kills), "differing": differing})
        else:
            kills.append({"kind": kind, "run": len(ends), **what_is_left(session)})
        save(record)


def save(record: dict[str, Any]) -> None:
    """Keep the record, where it is kept."""
    if record["path"] is not None:
        write_json(Path(record["path"]), {k: v for k, v in record.items() if k != "path"})


def table(record: dict[str, Any]) -> str:
    """What came of it, a row a subject."""
    lines = [
        "subject   kills  starting anywhere writing asked  half a file  in an epoch  runs equal"
    ]
    for name, kills in record["kills"].items():
        kinds = Counter(kill["kind"] for kill in kills)
        ends = record["ends"][name]
        counts = [kinds[kind] for kind in ("starting", "anywhere", "writing", "asked")]
        halves, inside = (sum(k[n] for k in kills) for n in ("left_temporary", "inside_an_epoch"))
        equal = sum(not end["differing"] for end in ends)
        lines.append(
            f"{name:9} {len(kills):5} {counts[0]:9} {counts[1]:8} {counts[2]:7} {counts[3]:5} "
            f"{halves:12} {inside:12} {len(ends):5} {equal:5}"
        )
    return "\n".join(lines)


def new_record(path: Path | None = None) -> dict[str, Any]:
    """Empty, or what an interrupted call left at `path`."""
    if path is not None and path.is_file():
        return {**json.loads(path.read_text(encoding="utf-8")), "path": path}
    empty: dict[str, Any] = {"undisturbed": {}, "kills": {}, "ends": {}}
    return {"environment": describe_environment("cpu"), **empty, "path": path}


def main() -> int:
    """Run what the command line says; 1 if a run ended otherwise than the undisturbed one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", default=DEFAULT_KILLS, help="how often, by subject")
    parser.add_argument("--epochs", type=int, default=80, help="of each run")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--folder", type=Path, default=Path("runs/kills"), help="for the runs")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/kills.json")
    parser.add_argument("--loop", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.loop:
        plain_loop(options.loop, options.epochs)
        return 0
    options.folder.mkdir(parents=True, exist_ok=True)
    record = new_record(options.folder / "record.json")
    record |= {"seed": options.seed, "epochs": options.epochs}
    for part in options.kills.split(","):
        name, _, count = part.partition("=")
        torment(
            name,
            subjects(options.epochs)[name],
            options.folder / name,
            num_kills=int(count),
            seed=options.seed,
            record=record,
        )
        print(table(record), flush=True)
    kept = {key: value for key, value in record.items() if key not in ("path", "undisturbed")}
    write_json(options.output, kept)
    return int(any(end["differing"] for ends in record["ends"].values() for end in ends))


if __name__ == "__main__":
    sys.exit(main())
