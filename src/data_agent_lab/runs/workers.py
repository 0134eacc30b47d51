"""Running runs in parallel: processes of their own, which stay for as long as there is work.

A worker gets a run through its pipe, and answers with its progress and how it ended. Anything else
that arrives while it trains means to stop with a checkpoint: a message, or the end of the pipe,
which is what a parent leaves that was killed. So no worker outlives its parent for long.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path

from data_agent_lab.runs.execution import Ending, TaskData, execute
from data_agent_lab.grid import Run

_REPORT_SECONDS = 0.3  # between two reports of progress
_PATIENCE = 30.0  # seconds in which a worker that has nothing to do must have ended

OnProgress = Callable[[Run, str, int, int], None]
OnEnd = Callable[[Run, Ending], None]


def run_parallel(
    runs: Sequence[Run],
    output: Path,
    *,
    jobs: int,
    on_progress: OnProgress,
    on_end: OnEnd,
    should_stop: Callable[[], bool],
) -> None:
    """Train runs in parallel until all have ended, or those at work have stopped when asked to.

    A worker that dies is a failure of its run only; another takes its place. Whatever ends this
    function, no worker is left.

    Args:
        runs: in the order in which they begin.
        output: the comparison's folder.
        jobs: processes, each with one run at a time.
        on_progress: told how far a run is: `(run, what, done, total)`.
        on_end: told how a run ended.
        should_stop: asked several times a second.
    """
    waiting = deque(runs)
    workers = [_Worker(output, jobs) for _ in range(min(jobs, len(waiting)))]
    try:
        while True:
            if should_stop():
                waiting.clear()
                for worker in workers:
                    worker.ask_to_stop()
            workers = [worker.begin_next(waiting) for worker in workers]
            busy = {worker.connection: worker for worker in workers if worker.run is not None}
            if not busy:
                break
            for connection in wait(list(busy), timeout=_REPORT_SECONDS):
                assert isinstance(connection, Connection)
                busy[connection].receive(on_progress, on_end)
        for worker in workers:
            worker.ask_to_stop()
            worker.process.join(_PATIENCE)
    finally:
        for worker in workers:
            worker.kill()


class _Worker:
    """A process, the run it works on, and the pipe to it."""

    def __init__(self, output: Path, jobs: int) -> None:
        self._output, self._jobs = output, jobs
        context = multiprocessing.get_context("spawn")  # threads of torch do not survive a fork
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, output, jobs), daemon=True)
        self.run: Run | None = None
        self._is_alive = True
        self._is_asked = False
        # Ctrl-C reaches every process of a terminal. A worker inherits what is blocked here, for
        # good: it stops when its parent asks. The parent gets what came meanwhile a little later.
        resource_tracker.ensure_running()  # starting a first process would, and unblock signals
        blocked = {signal.SIGINT, signal.SIGTERM}
        before = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()

    def begin_next(self, waiting: deque[Run]) -> _Worker:
        """Hand over the next run, if there is one and nothing to do; to a new worker if this died.

        Returns:
            The worker that takes this one's place, mostly itself.
        """
        if self.run is not None or not waiting:
            return self
        if not self._is_alive:
            self.kill()
            return _Worker(self._output, self._jobs).begin_next(waiting)
        self.run = waiting.popleft()
        self._send(self.run)
        return self

    def ask_to_stop(self) -> None:
        """Ask for a checkpoint now, and for the process's end."""
        if not self._is_asked:
            self._is_asked = True
            self._send(None)

    def receive(self, on_progress: OnProgress, on_end: OnEnd) -> None:
        """Take what the worker has sent, be it the end of its life."""
        assert self.run is not None
        try:
            message = self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            self._is_alive = False
            message = Ending(failure=f"its process died ({_cause(self.process.exitcode)})")
        if isinstance(message, Ending):
            run, self.run = self.run, None
            on_end(run, message)
        else:
            on_progress(self.run, *message)

    def kill(self) -> None:
        """End the process now, if it has not ended."""
        self.process.kill()
        self.process.join()
        self.connection.close()

    def _send(self, message: Run | None) -> None:
        with contextlib.suppress(OSError):  # it has died, which the next receive shows
            self.connection.send(message)


def _cause(code: int | None) -> str:
    if code == -signal.SIGKILL:
        return "killed from outside, perhaps because memory ran out"
    return f"exit code {code}"


def _work(connection: Connection, output: Path, jobs: int) -> None:
    """What a worker does: run after run, until there is none."""
    data, last_report = TaskData(), 0.0

    def report(what: str, done: int, total: int) -> None:
        nonlocal last_report
        if time.monotonic() - last_report >= _REPORT_SECONDS:
            last_report = time.monotonic()
            _tell(connection, (what, done, total))

    while (run := _next(connection)) is not None:
        ending = execute(run, output, data, jobs=jobs, progress=report, should_stop=connection.poll)
        _tell(connection, ending)


def _next(connection: Connection) -> Run | None:
    try:
        return connection.recv()
    except (EOFError, OSError):
        return None


def _tell(connection: Connection, message: object) -> None:
    with contextlib.suppress(OSError):  # the parent is gone, which `poll` shows as well
        connection.send(message)
