"""The lines of metrics of a run, sent to TensorBoard, Weights & Biases or trackio as well."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from data_agent.errors import InputError
from data_agent.integrations.tracking import track
from data_agent_lab.progress import Send, Tracker, send_nowhere
from data_agent_lab.runs.folder import RunFolder

PROJECT = "data-agent"
_PREFIXES = {"selector": "data_agent/", "visited": "visited/"}


def check_tracker(name: Tracker | None) -> None:
    """Raise `InputError` if a tracker is not installed."""
    if name is not None and find_spec(name) is None:
        raise InputError(
            f"--log {name} needs {name}, which is not installed. Run: pip install {name}."
        )


@contextmanager
def tracked(name: Tracker | None, folder: RunFolder, run: str, *, step: int) -> Generator[Send]:
    """What sends a line of metrics to a tracker; it is closed at the block's end.

    Args:
        name: of the tracker; None sends nowhere.
        folder: of the run, which has begun. TensorBoard's files lie in it.
        run: its name, for W&B and trackio.
        step: at which it goes on; what TensorBoard has of later ones is forgotten, and comes again.

    Raises:
        InputError: the tracker does not start.
    """
    if name is None:
        yield send_nowhere
        return
    writer, close = _opened(name, folder, run, step)
    try:
        yield lambda line: _send(writer, line)
    finally:
        close()


def _opened(
    name: Tracker, folder: RunFolder, run: str, step: int
) -> tuple[Any, Callable[[], None]]:
    """A tracker's writer, and what closes it."""
    if name == "tensorboard":
        from torch.utils.tensorboard import SummaryWriter  # needs tensorboard

        events = SummaryWriter(str(folder.path / "tensorboard"), purge_step=step + 1)
        return events, events.close
    options: dict[str, Any] = {"project": PROJECT, "config": folder.config(), "resume": "allow"}
    try:
        if name == "wandb":
            import wandb

            found = wandb.init(name=run, id=_id_of(folder), dir=str(folder.path), **options)
        else:
            import trackio

            # It knows a run by its name alone.
            found = trackio.init(name=f"{run}-{_id_of(folder)[:6]}", embed=False, **options)
    except Exception as error:  # no account, no network: theirs to say
        raise InputError(f"--log {name} does not start ({error}).") from error
    return found, found.finish


def _id_of(folder: RunFolder) -> str:
    """The same whenever the run goes on, and of no other run."""
    first = folder.sessions()[0]["started"]
    return hashlib.sha256(f"{folder.path.resolve()} {first}".encode()).hexdigest()[:16]


def _send(writer: Any, line: Mapping[str, Any]) -> None:
    """Its numbers at its step; what the selector and the samples visited were has a prefix."""
    parts = {"": line} | {prefix: line.get(part, {}) for part, prefix in _PREFIXES.items()}
    numbers = {
        f"{prefix}{name}": value
        for prefix, values in parts.items()
        for name, value in values.items()
        if isinstance(value, int | float) and math.isfinite(value) and name != "step"
    }
    track(writer, numbers, line["step"], prefix="")
