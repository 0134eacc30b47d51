"""What the commands show on a terminal, and how they listen to Ctrl-C."""

from __future__ import annotations

import logging
import math
import os
import signal
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from data_agent_lab.progress import Progress

_WIDE = 200  # columns of a table that goes to a file or a pipe, so that no cell is cut
_STOPPING = (
    b"\nStopping after this step; press Ctrl-C again to end at once, without a checkpoint.\n"
)
_LOOP = "data_agent_lab.training.run"  # logs every evaluation


def stdout() -> Console:
    """Where results go."""
    is_terminal = Console().is_terminal
    width = None if is_terminal else _WIDE
    return Console(markup=False, emoji=False, highlight=False, width=width)


@contextmanager
def progress_and_log(level: int) -> Generator[Progress]:
    """Draw progress and the library's log on stderr while the block runs.

    The bar is drawn on a terminal only. The log of the training loop starts at `level`.
    """
    console = Console(stderr=True)
    handler = RichHandler(console=console, show_time=False, show_level=False, show_path=False)
    packages = [logging.getLogger(name) for name in ("data_agent", "data_agent_lab")]
    levels = {logging.getLogger(_LOOP): level, **dict.fromkeys(packages, logging.INFO)}
    before = {logger: logger.level for logger in levels}
    description = TextColumn("{task.description}")
    columns = (description, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        for logger, own_level in levels.items():
            logger.setLevel(own_level)
        for logger in packages:
            logger.addHandler(handler)
        hidden = not console.is_terminal
        with Bars(*columns, console=console, transient=True, disable=hidden) as bars:
            task = bars.add_task("", total=None)
            yield lambda what, done, total: bars.update(
                task, description=what, completed=done, total=total
            )
    finally:
        for logger, own_level in before.items():
            logger.removeHandler(handler)
            logger.setLevel(own_level)


@contextmanager
def stop_requests(deadline: float = math.inf) -> Generator[Callable[[], bool]]:
    """While the block runs, the first Ctrl-C (or SIGTERM) only asks to stop; a second one ends.

    Yields whether stopping was asked for, which it is from `deadline` on, of `time.monotonic`.
    """
    requested: list[int] = []

    def on_signal(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - signal's form
        if requested:
            raise KeyboardInterrupt
        requested.append(number)
        os.write(2, _STOPPING)  # a console may be in the middle of a line

    before = {n: signal.signal(n, on_signal) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(requested) or time.monotonic() >= deadline
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def format_seconds(seconds: float) -> str:
    """A duration for people: 48 s, 3 min 20 s, 2 h 05 min."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
