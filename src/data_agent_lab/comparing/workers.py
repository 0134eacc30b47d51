"""Several runs at a time, in processes of their own that stay as long as there is work.

A worker receives a run through its pipe, and answers with its progress and how the run ended.
Anything that arrives while it trains means to stop with a checkpoint: a message, or the end of the
pipe, which is what a killed parent leaves. So no worker outlives its parent for long. A pool of the
standard library gives neither: a worker that is killed breaks the whole pool, and the workers of a
parent that is killed wait for ever.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, cast

from data_agent_lab.comparing.execution import Account, LoadedData, RunOutcome, execute
from data_agent_lab.progress import Tracker
from data_agent_lab.recipes import RunConfig

# Threads of torch do not survive a fork: workers are forked from a process that computes nothing
# and has imported, once for all of them, what takes them seconds. Elsewhere each imports anew.
_CONTEXT = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
_IMPORTED = ("data_agent_lab.training.run", "torch._dynamo")  # the latter by torch's optimizers
_REPORT_SECONDS = 0.3  # between two reports of progress
_PATIENCE = 30.0  # seconds in which a worker that has nothing to do must have ended


def prepare_workers() -> None:
    """Let a process begin to import what workers need, beside what this one does until then."""
    if sys.platform == "linux":
        _CONTEXT.set_forkserver_preload(list(_IMPORTED))
        with _blocked_signals():
            forkserver.ensure_running()


def run_parallel(
    runs: Sequence[RunConfig[Any]],
    output: Path,
    account: Account,
    *,
    jobs: int,
    tracker: Tracker | None,
    should_stop: Callable[[], bool],
) -> None:
    """Train runs in parallel until all have ended, or those at work have stopped when asked to.

    A worker that dies is a failure of its run only; another takes its place. Whatever ends this
    function, no worker is left. The arguments are those of `session.run_all`.
    """
    waiting = deque(runs)
    with _workers(min(jobs, len(runs)), output, jobs, tracker) as workers:
        while True:
            if should_stop():
                waiting.clear()
                for worker in workers:
                    worker.send(None)
            for worker in workers:
                if waiting and worker.run is None:
                    worker.begin(waiting.popleft())
            busy = {worker.connection: worker for worker in workers if worker.run is not None}
            if not busy:
                return
            for connection in wait(list(busy), timeout=_REPORT_SECONDS):
                busy[cast(Connection, connection)].receive(account)


class _Worker:
    """A process, the run it works on, and the pipe to it."""

    def __init__(self, output: Path, jobs: int, tracker: Tracker | None) -> None:
        self._arguments = output, jobs, tracker
        self.run: RunConfig[Any] | None = None
        self._start()

    def _start(self) -> None:
        self.connection, far_end = _CONTEXT.Pipe()
        self.process = _CONTEXT.Process(target=_work, args=(far_end, *self._arguments), daemon=True)
        with _blocked_signals():
            self.process.start()
        far_end.close()

    def begin(self, run: RunConfig[Any]) -> None:
        if not self.process.is_alive():
            self._start()
        self.run = run
        self.send(run)

    def send(self, message: RunConfig[Any] | None) -> None:
        """Send a run, or None, which asks for a checkpoint now and for the process's end."""
        with contextlib.suppress(OSError):  # it has died, which the next `receive` shows
            self.connection.send(message)

    def receive(self, account: Account) -> None:
        """Take what the worker has sent: progress, or how its run ended; death ends a run too."""
        assert self.run is not None
        try:
            message = self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            code = self.process.exitcode  # -9 is SIGKILL, a name that Windows does not know
            killed = "killed from outside, perhaps because memory ran out"
            cause = killed if code == -9 else f"exit code {code}"
            message = RunOutcome(failure=f"its process died ({cause})")
        if isinstance(message, RunOutcome):
            run, self.run = self.run, None
            account.end(run, message)
        else:
            account.update(self.run, *message)


@contextmanager
def _workers(
    count: int, output: Path, jobs: int, tracker: Tracker | None
) -> Generator[list[_Worker]]:
    """Workers, all of which have ended after the block."""
    prepare_workers()
    workers: list[_Worker] = []
    try:
        workers.extend(_Worker(output, jobs, tracker) for _ in range(count))
        yield workers
        for worker in workers:
            worker.send(None)
            worker.process.join(_PATIENCE)
    finally:
        for worker in workers:
            worker.process.kill()
            worker.process.join()


@contextmanager
def _blocked_signals() -> Generator[None]:
    """Keep signals from what is started in the block, for good; from this process until its end.

    Ctrl-C reaches every process of a terminal, and a worker stops when its parent asks.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows, where `_work` ignores them
        yield
        return
    resource_tracker.ensure_running()  # starting a first process would, and unblock signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(connection: Connection, output: Path, jobs: int, tracker: Tracker | None) -> None:
    """What a worker does: run after run, until there is none or the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    data, last_report = LoadedData(), 0.0

    def report(what: str, done: int, total: int) -> None:
        nonlocal last_report
        if time.monotonic() - last_report >= _REPORT_SECONDS:
            last_report = time.monotonic()
            with contextlib.suppress(OSError):  # the parent is gone, which `poll` shows as well
                connection.send((what, done, total))

    with contextlib.suppress(EOFError, OSError):
        while (run := connection.recv()) is not None:
            connection.send(
                execute(
                    *(run, output, data),
                    jobs=jobs,
                    tracker=tracker,
                    progress=report,
                    should_stop=connection.poll,
                )
            )
