"""The commands behind `data-agent`: what they take, and what they do."""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.table import Table

from data_agent._errors import DataAgentError
from data_agent.lab.compare import Outcome, pending_runs, run_all
from data_agent.lab.config import CompareConfig, TrainConfig
from data_agent.lab.report import (
    COLUMNS,
    Comparison,
    reading_notes,
    summarise,
    table_cells,
    write_report,
)
from data_agent.lab.runs import RunFolder, check_resumable, open_run
from data_agent.lab.tasks import load_task, recipe_for
from data_agent.lab.terminal import progress_and_log, stdout, stop_requests

DONE, FAILED, STOPPED = 0, 1, 130
_DEFAULT_TASK = "digits"


@dataclass(frozen=True, kw_only=True, slots=True)
class Train:
    """Train a model with one method of choosing samples."""

    config: TrainConfig
    output: Path | None = None
    """Folder of the run; None is runs/TASK-METHOD-seedSEED."""
    resume: bool = False
    """Go on with the unfinished run in the folder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Compare:
    """Train several methods in one and the same loop, with several seeds, and compare them."""

    config: CompareConfig
    output: Path | None = None
    """Folder of the comparison; None is runs/compare-TASK."""
    resume: bool = False
    """Go on with unfinished runs in the folder; finished ones are never run again."""


def run(argv: Sequence[str]) -> int:
    """Do what the command line says; returns the exit code.

    Raises:
        DataAgentError: what is asked for cannot be done; the message says why.
        SystemExit: --help, or flags that do not exist.
    """
    command = parse(argv)
    return _train(command, argv) if isinstance(command, Train) else _compare(command, argv)


def parse(argv: Sequence[str]) -> Train | Compare:
    """Read the command line; the defaults of a task are the defaults of its flags.

    Raises:
        DataAgentError: an unknown task, or a value outside its range.
        SystemExit: --help, or flags that do not exist.
    """
    recipe = recipe_for(_task_in(argv))
    train, compare = TrainConfig(recipe=recipe), CompareConfig(recipe=recipe)
    commands = tyro.conf.OmitArgPrefixes[
        Annotated[Train, tyro.conf.subcommand("train", default=Train(config=train))]
        | Annotated[Compare, tyro.conf.subcommand("compare", default=Compare(config=compare))]
    ]
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(commands, prog="data-agent", args=list(argv))
    except SystemExit as end:
        _raise_own_error(end)
        sys.stderr.write(said.getvalue())
        raise


def _raise_own_error(end: SystemExit) -> None:
    """Raise our error that made the parser give up, whose own words name its internals."""
    error: BaseException | None = end
    while error is not None:
        if isinstance(error, DataAgentError):
            raise error from None
        error = error.__context__


def _task_in(argv: Sequence[str]) -> str:
    """The task, read before all else because the other defaults depend on it."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--task", nargs="?", default=_DEFAULT_TASK, const=_DEFAULT_TASK)
    return parser.parse_known_args(list(argv))[0].task


def _train(command: Train, argv: Sequence[str]) -> int:
    from data_agent.lab.train import train

    config, recipe = command.config, command.config.recipe
    output = command.output or Path("runs") / f"{recipe.task}-{config.method}-seed{config.seed}"
    status = RunFolder(output).status(config.flat())
    if status == "finished":
        stdout().print(f"Already done: {_in_words(RunFolder(output).result(), output)}")
        return DONE
    check_resumable(output, status, resume=command.resume)
    with progress_and_log(logging.INFO) as progress:
        data = load_task(recipe, progress)
        with (
            open_run(output, config.flat(), resume=command.resume) as folder,
            stop_requests() as should_stop,
        ):
            result = train(config, data, folder, progress=progress, should_stop=should_stop)
    if result is None:
        return _say_stopped(argv)
    stdout().print(_in_words(result, output))
    return DONE


def _compare(command: Compare, argv: Sequence[str]) -> int:
    config = command.config
    output = command.output or Path("runs") / f"compare-{config.recipe.task}"
    pending = pending_runs(config, output, resume=command.resume)
    outcome = Outcome()
    if pending:
        with progress_and_log(logging.WARNING) as progress:
            data = load_task(config.recipe, progress)
            with stop_requests() as should_stop:
                outcome = run_all(pending, data, output, progress=progress, should_stop=should_stop)
    if outcome.is_stopped:
        return _say_stopped(argv)
    if len(outcome.failed) < len(config.runs()):
        _show(summarise(config, output), output)
    for name, reason in outcome.failed.items():
        stdout().print(f"{name} failed: {reason}")
    return FAILED if outcome.failed else DONE


def _show(comparison: Comparison, output: Path) -> None:
    from data_agent.lab.figure import draw

    write_report(comparison, output)
    draw(comparison, output / "comparison.png")
    table = Table(*COLUMNS)
    for row in comparison.rows:
        table.add_row(*table_cells(row))
    console = stdout()
    console.print(table)
    for note in reading_notes(comparison):
        console.print(note)
    console.print(f"Written to {output}: comparison.md, comparison.json, comparison.png.")


def _in_words(result: dict[str, Any], output: Path) -> str:
    overhead = result["overhead_seconds"] / result["train_seconds"]
    return (
        f"{result['metric']} {result['value']:.2f} {result['unit']} on {result['evaluation']}, "
        f"{100 * result['cost']:.1f} % of the cost of full training, "
        f"{result['train_seconds']:.1f} s of training of which {100 * overhead:.1f} % to select. "
        f"See {output}."
    )


def _say_stopped(argv: Sequence[str]) -> int:
    words = [*argv] if "--resume" in argv else [*argv, "--resume"]
    command = shlex.join(["data-agent", *words])
    stdout().print(f"Stopped; a checkpoint is written. Go on with: {command}", soft_wrap=True)
    return STOPPED
