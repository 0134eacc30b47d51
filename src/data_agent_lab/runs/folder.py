"""The folder of one run: what was asked, where it ran, what happened, and where to go on.

config.json                      the resolved configuration
environment.json                 machine, versions, commit and command of every session
metrics.jsonl                    one line an epoch, appended
checkpoint.safetensors           where to go on; at the end the trained model
checkpoint-previous.safetensors  the one before it, until the run has finished
samples.parquet, samples.csv     the numbers of every sample, written at the end
result.json                      written last; a run without it is unfinished

All of it is data: nothing in a folder is executed or imported. Links are refused, so that nothing
outside of it is read or written.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

from filelock import lock_descriptor

from data_agent.errors import InputError
from data_agent.runtime import checkpoint
from data_agent.runtime.files import (
    append_line,
    check_no_link,
    parse_json,
    read_text,
    remove_leftovers,
    write_json,
    write_text,
)
from data_agent_lab.configurations import with_defaults
from data_agent_lab.runs.environment import describe_environment

FORMAT = "data-agent-run"
VERSION = 1
LOCK = ".lock"
_BEGUN = {"config.json", "environment.json"}  # what is written before a run trains

RunStatus = Literal["new", "unfinished", "finished"]


class RunFolder:
    """Paths and contents of one run's folder; make it with `open_run` to write."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoint = path / "checkpoint.safetensors"
        self._previous = path / "checkpoint-previous.safetensors"
        self._metrics = path / "metrics.jsonl"
        self._is_damaged = False  # the checkpoint that `load_checkpoint` found

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
        there = {entry.name for entry in self.path.iterdir() if not entry.name.startswith(".")}
        if not there:
            return "new"
        found, config = with_defaults(self.config()), with_defaults(config)
        differences = [
            f"{name} {found.get(name)!r} there, {config.get(name)!r} now"
            for name in sorted(found.keys() | config.keys())
            if found.get(name) != config.get(name)
        ]
        if differences and there <= _BEGUN:  # it was refused, or ended, before its first step
            return "new"
        if differences:
            raise InputError(
                f"{self.path} holds a run with another configuration: {'; '.join(differences)}. "
                "Choose another --output, or use its configuration."
            )
        return "finished" if self.is_finished() else "unfinished"

    def is_pending(self, config: Mapping[str, Any], *, resume: bool) -> bool:
        """Whether the run of `config` is still to do here.

        Raises:
            InputError: as of `status`, or the run is unfinished and `resume` does not allow that.
        """
        status = self.status(config)
        if status == "unfinished" and not resume:
            raise InputError(
                f"there is an unfinished run in {self.path}. Add --resume to go on with it, or "
                "delete it to start over."
            )
        return status != "finished"

    def is_finished(self) -> bool:
        """Whether there is a result."""
        return (self.path / "result.json").is_file()

    def is_run(self) -> bool:
        """Whether the folder's config.json is one of ours, and not another program's."""
        with self._reading("config.json") as text:
            content = parse_json(text)
        return isinstance(content, dict) and content.get("format") == FORMAT

    def config(self) -> dict[str, Any]:
        """The run's configuration, flat; `InputError` if this is not a run's folder."""
        with self._reading("config.json") as text:
            content = _of_kind(dict, parse_json(text))
            form, version = content.get("format"), content.get("version")
            if (form, version) != (FORMAT, VERSION):
                raise InputError(
                    f"{self.path} is not a folder of this data-agent (its config.json has format "
                    f"{form!r}, version {version!r}). Choose another --output."
                )
            return _of_kind(dict, content.get("config"))

    def result(self) -> dict[str, Any]:
        """What the finished run reached."""
        with self._reading("result.json") as text:
            return _of_kind(dict, parse_json(text))

    def sessions(self) -> list[dict[str, Any]]:
        """The environment of each session that worked on the run."""
        with self._reading("environment.json") as text:
            return _of_kind(list, _of_kind(dict, parse_json(text)).get("sessions"))

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics so far; a line that a crash cut short is left out."""
        if not self._metrics.exists():
            return []
        with self._reading("metrics.jsonl") as text:
            lines = [_of_kind(dict, parse_json(line)) for line in text.split("\n")[:-1]]
            if any(type(line.get("step")) is not int for line in lines):
                raise ValueError("a line has no step")
        return lines

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
        append_line(self._metrics, json.dumps(line))

    def drop_metrics_after(self, step: int, *, before_epoch: float = math.inf) -> None:
        """Forget lines that a session wrote after its last checkpoint: they will come again.

        Args:
            step: optimizer steps that were done at the checkpoint.
            before_epoch: the epoch that goes on, where lines are written at an epoch's end.
        """
        kept = [
            json.dumps(line) + "\n"
            for line in self.metrics()
            if line["step"] <= step and line.get("epoch", 0) < before_epoch
        ]
        write_text(self._metrics, "".join(kept))

    def save_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Write where to go on; the checkpoint so far becomes the previous one."""
        if self._is_damaged:  # must not push the good previous one out
            self.checkpoint.replace(self.path / "checkpoint-damaged.safetensors")
            self._is_damaged = False
        checkpoint.save(self.checkpoint, state, previous=self._previous)

    def load_checkpoint(self) -> dict[str, Any] | None:
        """Where to go on: the last checkpoint, or the one before it if that is damaged.

        None if nothing was saved yet. Changes nothing on disk, so every rank may call it.

        Raises:
            CheckpointError: none of the two can be used; the message names them.
        """
        paths = [self.checkpoint, self._previous]  # a crash between two renames leaves the second
        for path in paths:
            check_no_link(path)
        if not any(path.exists() for path in paths):
            return None
        found, state = checkpoint.load_newest(*paths)
        self._is_damaged = found != self.checkpoint and self.checkpoint.exists()
        return state

    def finish(self, result: Mapping[str, Any]) -> None:
        """Write the result, last of all files."""
        self._previous.unlink(missing_ok=True)
        write_json(self.path / "result.json", dict(result))

    @contextmanager
    def _reading(self, name: str) -> Generator[str]:
        """The text of a file; what goes wrong in the block becomes an error that names it."""
        try:
            yield read_text(self.path / name)
        except InputError:
            raise
        except FileNotFoundError as error:
            raise InputError(
                f"{self.path} is not a folder of data-agent (it has no {name}). Choose another "
                "--output, or delete it."
            ) from error
        except (ValueError, OSError) as error:
            raise InputError(
                f"{self.path / name} is damaged ({error}). Delete its folder to start over."
            ) from error


def _of_kind(kind: type, value: Any) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"expected {kind.__name__}, found {type(value).__name__}")
    return value


@contextmanager
def open_run(path: Path, config: Mapping[str, Any], *, resume: bool) -> Generator[RunFolder]:
    """Hold the folder of a run that is new or, with `resume`, unfinished, made if needed, to write.

    Raises:
        InputError: foreign content, another configuration, finished already, unfinished without
            `resume`, another process at work in it, or no right to write there.
    """
    folder = RunFolder(path)
    folder.status(config)  # before making anything
    with hold_folder(path):
        remove_leftovers(path)  # of sessions that were killed while they wrote
        if not folder.is_pending(config, resume=resume):
            raise InputError(
                f"the run in {path} is finished. Choose another --output, or delete it."
            )
        if folder.status(config) == "new":  # sessions of another configuration that never trained
            (path / "environment.json").unlink(missing_ok=True)
        yield folder


@contextmanager
def hold_folder(path: Path, *, holder: str = "process") -> Generator[None]:
    """Hold a folder, made if needed; the lock ends with its process, however that ends.

    `InputError` if it cannot be held, or another `holder` holds it already.
    """
    check_no_link(path / LOCK)  # opening it would make a file wherever the link leads
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)  # which Windows does not have
    with ExitStack() as stack:
        try:
            path.mkdir(parents=True, exist_ok=True)
            lock = os.open(path / LOCK, flags, 0o666)
            stack.callback(os.close, lock)
            is_ours = lock_descriptor(lock, blocking=False)
        except OSError as error:
            raise InputError(
                f"{path} cannot be written or locked ({error.strerror}). Choose another --output."
            ) from error
        if not is_ours:
            raise InputError(
                f"another {holder} is working in {path}. Wait for it, or choose another --output."
            )
        yield
