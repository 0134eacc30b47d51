"""A session of a comparison: what is left to do, in turn or in parallel, and what became of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from data_agent.errors import InputError
from data_agent_lab.comparing.execution import Account, LoadedData, RunOutcome, execute
from data_agent_lab.comparing.workers import run_parallel
from data_agent_lab.progress import Progress, Tracker, never, silent
from data_agent_lab.recipes import RunConfig
from data_agent_lab.runs.folder import LOCK, RunFolder, hold_folder


@contextmanager
def hold_output(output: Path) -> Generator[None]:
    """Keep other comparisons out of a folder, which is made if needed, while the block runs.

    If nothing came of it, the folder is gone again afterwards. `InputError` if another process
    holds it, or it cannot hold a comparison.
    """
    if output.exists() and not output.is_dir():
        raise InputError(f"{output} is a file; the output must be a folder.")
    if (output / "config.json").exists():
        raise InputError(
            f"{output} is the folder of a single run, or of another program. Choose another "
            "--output."
        )
    made = [path for path in (output, *output.parents) if not path.exists()]
    with hold_folder(output, holder="comparison"):
        try:
            yield
        finally:
            if made and list(output.iterdir()) == [output / LOCK]:
                with contextlib.suppress(OSError):  # another program put something there meanwhile
                    (output / LOCK).unlink()
                    for path in made:
                        path.rmdir()


def pending_runs(
    runs: Sequence[RunConfig[Any]], output: Path, *, resume: bool
) -> list[RunConfig[Any]]:
    """Those of the runs that are still to do; with `resume` also those that are unfinished.

    Raises:
        InputError: a run's folder holds something else, another configuration or a damaged
            result, or an unfinished run without `resume`. Nothing has been started then.
    """
    pending: list[RunConfig[Any]] = []
    for run in runs:
        folder = RunFolder(output / run.name)
        if folder.is_pending(run.flat(), resume=resume):
            pending.append(run)
        else:
            folder.result()  # can be read
    return pending


def run_all(
    runs: Sequence[RunConfig[Any]],
    output: Path,
    *,
    jobs: int = 1,
    tracker: Tracker | None = None,
    seconds: Mapping[str, float],
    progress: Progress = silent,
    should_stop: Callable[[], bool] = never,
) -> dict[str, RunOutcome]:
    """Train runs; one that fails is logged and the others go on.

    Args:
        runs: as `pending_runs` gave them.
        output: the comparison's folder.
        jobs: how many train at the same time, each in a process of its own; 1 trains in this one.
        tracker: where lines of metrics are sent besides the runs' folders.
        seconds: by run, how long it will take; for what is said about the time left.
        progress: told how far all of them are.
        should_stop: asked after every optimizer step, or several times a second.

    Returns:
        By run, what became of it.
    """
    account = Account({run.name: seconds[run.name] for run in runs}, progress)
    if jobs > 1 and len(runs) > 1:
        run_parallel(runs, output, account, jobs=jobs, tracker=tracker, should_stop=should_stop)
        return account.outcomes
    data = LoadedData()
    for run in runs:
        outcome = execute(
            *(run, output, data),
            jobs=1,
            tracker=tracker,
            progress=partial(account.update, run),
            should_stop=should_stop,
        )
        account.end(run, outcome)
        if outcome.is_stopped:
            break
    return account.outcomes
