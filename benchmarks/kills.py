"""Kill training at random moments, go on, and compare the end with a run that nobody killed.

    python benchmarks/kills.py                       # 100 kills, 15 to 30 minutes on two cores
    python benchmarks/kills.py --kills loop=5        # a quick look

Four subjects: `data-agent train`, the same on two ranks under `torchrun --max-restarts`,
`data-agent compare` with worker processes, and the plain PyTorch loop of docs/interruption.md,
whose loader has worker processes. All augment at random. SIGKILL goes to all processes at a moment
drawn by (seed, subject, number of the kill):

    starting  before training begins
    anywhere  while it trains
    writing   while a checkpoint's temporary file is there
    asked     SIGTERM first, as schedulers do, which makes the lab save inside an epoch
    rank      one rank first, whose job torchrun starts again, and all some time later

Then the same command goes on. A run that ends is compared with the undisturbed one: every bit of
model, optimizer, selector, random state, metrics and result, and the names of all files. Killed
itself, this program goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from kill_subjects import Subject, subjects
from run_content import content_of, outcome

from data_agent.runtime.files import write_json
from data_agent_lab.runs.environment import describe_environment

ROOT = Path(__file__).parents[1]
DEFAULT_KILLS = "train=50,loop=20,compare=15,ranks=15"
PATIENCE = 300.0  # seconds after which a session that does not get on is a hang
BLINK = 0.0005  # seconds: a temporary file is there no longer than a few of them


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

    def wait(
        self, condition: Callable[[], bool], *, seconds: float = PATIENCE, pause: float = 0.02
    ) -> None:
        """Until then, or until it is over; it is asked every `pause` seconds."""
        end = time.monotonic() + seconds
        while not self.is_over() and not condition():
            if time.monotonic() > end:
                raise TimeoutError(f"{self.folder} does not get on: a hang.")
            time.sleep(pause)

    def signal(self, number: int) -> None:
        """To all of its processes; torchrun puts each rank into a group of its own."""
        for group in (self.process.pid, *children_of(self.process.pid)):
            try:
                os.killpg(group, number)
            except (ProcessLookupError, PermissionError):
                continue

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


def children_of(process: int) -> list[int]:
    """What a process has started and what is still there, in order (Linux)."""
    found: list[int] = []
    for tasks in Path(f"/proc/{process}/task").glob("*/children"):
        try:
            found += map(int, tasks.read_text().split())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return sorted(found)


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
            session.wait(lambda: not session.is_writing(), pause=BLINK)
            session.wait(session.is_writing, pause=BLINK)
        time.sleep(draws.uniform(0, 0.003))
        # Held still it cannot finish the file before the kill; what was faster writes another one.
        while hold(session) and not session.is_writing():
            session.signal(signal.SIGCONT)
            session.wait(session.is_writing, pause=BLINK)
        return
    pause_until = time.monotonic() + draws.uniform(0, seconds / 4)
    session.wait(lambda: time.monotonic() > pause_until)
    if kind == "rank":
        ranks = children_of(session.process.pid)
        if ranks:
            os.kill(draws.choice(ranks), signal.SIGKILL)
        pause_until = time.monotonic() + draws.uniform(
            4, 4 + seconds / 2
        )  # torchrun needs its time
        session.wait(lambda: time.monotonic() > pause_until)
    if kind == "asked":
        session.signal(signal.SIGTERM)
        patience_until = time.monotonic() + draws.choice([0.05, PATIENCE, PATIENCE])
        session.wait(lambda: time.monotonic() > patience_until)


def hold(session: Session) -> bool:
    """Stop all processes of a session where they are; False if it is over."""
    session.signal(signal.SIGSTOP)
    time.sleep(0.001)  # until the signal has arrived
    return not session.is_over()


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


def undisturbed(subject: Subject, folder: Path) -> tuple[dict[str, str], float]:
    """A run's outcome, and the seconds from the first it writes to its end."""
    session = begin(subject, folder)
    session.wait(session.has_begun)
    began = time.monotonic()
    session.wait(lambda: False)
    seconds = time.monotonic() - began
    check_end(session, session.end())
    return outcome(subject.runs, folder), seconds


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
            found = outcome(subject.runs, session.folder)
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
        "subject   kills  starting anywhere writing asked rank  half a file  in an epoch runs equal"
    ]
    for name, kills in record["kills"].items():
        kinds = Counter(kill["kind"] for kill in kills)
        ends = record["ends"][name]
        counts = [kinds[kind] for kind in ("starting", "anywhere", "writing", "asked", "rank")]
        halves, inside = (sum(k[n] for k in kills) for n in ("left_temporary", "inside_an_epoch"))
        equal = sum(not end["differing"] for end in ends)
        lines.append(
            f"{name:9} {len(kills):5} {counts[0]:9} {counts[1]:8} {counts[2]:7} {counts[3]:5} "
            f"{counts[4]:4} {halves:12} {inside:12} {len(ends):4} {equal:5}"
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
    options = parser.parse_args()
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
