"""The folder of one run: what was asked, where it ran, what happened, and where to go on.

config.json             the resolved configuration
environment.json        machine, versions, commit and command of every session
metrics.jsonl           one line an epoch, appended
checkpoint.safetensors  where to go on; at the end the trained model
result.json             written last; a run without it is unfinished
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from data_agent._errors import InputError
from data_agent._files import write_json, write_text
from data_agent.lab.environment import describe_environment

FORMAT = "data-agent-run"
VERSION = 1
_LOCK = ".lock"

RunStatus = Literal["new", "unfinished", "finished"]


class RunFolder:
    """Paths and contents of one run's folder; make it with `open_run` to write.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoint = path / "checkpoint.safetensors"
        self._metrics = path / "metrics.jsonl"

    def status(self, config: Mapping[str, Any]) -> RunStatus:
        """How far the run of `config` in this folder is.

        Raises:
            InputError: the folder holds something else, or a run with another configuration.
        """
        if not self.path.exists():
            return "new"
        if not self.path.is_dir():
            raise InputError(f"{self.path} is a file; the output must be a folder.")
        # A session that died before it began leaves its lock, and half of a file.
        if all(entry.name.startswith(".") for entry in self.path.iterdir()):
            return "new"
        _check_same(self.path, self.config(), config)
        return "finished" if self.is_finished() else "unfinished"

    def is_finished(self) -> bool:
        """Whether there is a result."""
        return (self.path / "result.json").is_file()

    def is_run(self) -> bool:
        """Whether the folder's config.json is one of ours, and not another program's."""
        content: object = self._read("config.json")
        return isinstance(content, dict) and content.get("format") == FORMAT

    def config(self) -> dict[str, Any]:
        """The run's configuration, flat.

        Raises:
            InputError: this is not a run's folder.
        """
        content = self._read("config.json")
        if content.get("format") != FORMAT or content.get("version") != VERSION:
            raise InputError(
                f"{self.path} is not a folder of this data-agent (its config.json has format "
                f"{content.get('format')!r}, version {content.get('version')!r}). Choose another "
                "--output."
            )
        return content["config"]

    def result(self) -> dict[str, Any]:
        """What the finished run reached."""
        return self._read("result.json")

    def sessions(self) -> list[dict[str, Any]]:
        """The environment of each session that worked on the run."""
        return self._read("environment.json")["sessions"]

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics so far; a line that a crash cut short is left out."""
        if not self._metrics.is_file():
            return []
        text = self._metrics.read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def begin(self, config: Mapping[str, Any], *, device: str, jobs: int = 1) -> None:
        """Record what runs and, for each session, where, and how many runs shared the machine."""
        # The configuration comes first: whatever else a crash leaves, the folder is known by it.
        write_json(
            self.path / "config.json",
            {"format": FORMAT, "version": VERSION, "config": dict(config)},
        )
        path = self.path / "environment.json"
        sessions = self.sessions() if path.is_file() else []
        session = {**describe_environment(device), "jobs": jobs}
        write_json(path, {"sessions": [*sessions, session]})

    def append_metrics(self, line: Mapping[str, Any]) -> None:
        """Add one line of metrics; it carries the optimizer step under `step`."""
        with self._metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def drop_metrics_after(self, step: int) -> None:
        """Forget lines that a session wrote after its last checkpoint: they will come again."""
        kept = [line for line in self.metrics() if line["step"] <= step]
        write_text(self._metrics, "".join(json.dumps(line) + "\n" for line in kept))

    def finish(self, result: Mapping[str, Any]) -> None:
        """Write the result, last of all files."""
        write_json(self.path / "result.json", dict(result))

    def _read(self, name: str) -> dict[str, Any]:
        path = self.path / name
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise InputError(
                f"{self.path} is not a folder of data-agent (it has no {name}). Choose another "
                "--output, or delete it."
            ) from error
        except ValueError as error:
            raise InputError(
                f"{path} is damaged ({error}). Delete its folder to start over."
            ) from error


@contextmanager
def open_run(path: Path, config: Mapping[str, Any], *, resume: bool) -> Generator[RunFolder]:
    """Hold the folder of one run for writing; other processes are kept out meanwhile.

    Args:
        path: the folder, made if needed.
        config: the run's configuration, flat.
        resume: go on with an unfinished run.

    Yields:
        The folder; its status is "new" or, with `resume`, "unfinished".

    Raises:
        InputError: foreign content, another configuration, finished already, unfinished without
            `resume`, or another process at work in it.
    """
    folder = RunFolder(path)
    folder.status(config)  # before making anything
    path.mkdir(parents=True, exist_ok=True)
    with (path / _LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"another process is working in {path}. Wait for it, or choose another --output."
            ) from error
        check_resumable(path, folder.status(config), resume=resume)
        yield folder


def check_resumable(path: Path, status: RunStatus, *, resume: bool) -> None:
    """Raise `InputError` if a run with this status must not be started."""
    if status == "finished":
        raise InputError(f"the run in {path} is finished. Choose another --output, or delete it.")
    if status == "unfinished" and not resume:
        raise InputError(
            f"there is an unfinished run in {path}. Add --resume to go on with it, or delete it to "
            "start over."
        )


def _check_same(path: Path, found: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    differences = [
        f"{name} {found.get(name)!r} there, {asked.get(name)!r} now"
        for name in sorted(found.keys() | asked.keys())
        if found.get(name) != asked.get(name)
    ]
    if differences:
        raise InputError(
            f"{path} holds a run with another configuration: {'; '.join(differences)}. Choose "
            "another --output, or use its configuration."
        )
