"""The commands behind `data-agent`: what they take, and what they do."""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import shlex
import sys
from collections.abc import Generator, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Generic

import tyro

from data_agent.errors import DataAgentError, InputError
from data_agent.runtime.distributed import failing_together, rank
from data_agent_lab.grid import Grid, Run, parse_keep_ratios, parse_names, parse_seeds
from data_agent_lab.progress import silent
from data_agent_lab.recipes import ImageRecipe, R, Recipe, RunConfig, TextRecipe
from data_agent_lab.results.archive import write_archive
from data_agent_lab.results.records import reached_in_words
from data_agent_lab.rules import flag_of
from data_agent_lab.runs.compare import Outcome, hold_output, pending_runs, run_all
from data_agent_lab.runs.environment import num_cpus
from data_agent_lab.runs.folder import RunFolder, check_resumable
from data_agent_lab.runs.forecast import forecast
from data_agent_lab.suite import suite_recipes
from data_agent_lab.tasks import load_task, recipe_for
from data_agent_lab.terminal import progress_and_log, stdout, stop_requests
from data_agent_lab.training.devices import choose_device
from data_agent_lab.training.loops import train_run
from data_agent_lab.training.ranks import (
    Sharding,
    is_restart,
    joined_ranks,
    num_started,
    open_run_together,
)

logger = logging.getLogger(__name__)

DONE, FAILED, STOPPED = 0, 1, 130
_DEFAULT_TASK = "digits"


@dataclass(frozen=True, kw_only=True, slots=True)
class Train(Generic[R]):
    """Train a model with one method of choosing samples; under torchrun, on several ranks."""

    config: RunConfig[R]
    output: Path | None = None
    """Folder of the run; None is runs/TASK-METHOD-seedSEED."""
    resume: bool = False
    """Go on with the unfinished run in the folder; on after a restart by torchrun."""
    sharding: Sharding = "ddp"
    """How the ranks of torchrun share the model: ddp (each holds all of it) or fsdp (each holds a
    part, FSDP2). A run may go on with the other, and on another number of ranks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Compare(Generic[R]):
    """Train methods in one and the same loop, at several budgets, with several seeds, and compare.

    One task with the flags of its recipe, or a suite of tasks with recipes of their own.
    """

    recipe: R
    suite: str | None = None
    """Tasks to compare on: quick, core, held-out or language; None is the one task of --task."""
    tasks: str | None = None
    """Some of the suite's tasks, separated by commas; without --suite, of all suites."""
    data_root: Path = Path("data")
    """Folder with the suite's data: cifar10, cifar10n, tiny_imagenet_32, sst2, t0_mix, ..."""
    methods: str = "full,full-short,random,data-agent"
    """Methods to compare, separated by commas."""
    keep_ratios: str = "0.5"
    """Shares of the training samples visited in an epoch, in (0, 1], separated by commas."""
    seeds: str = "3"
    """A count (5 is 0 to 4) or seeds separated by commas; two or more give intervals, five are a
    claim."""
    jobs: int | None = None
    """Runs that train at the same time; None is 1 on an accelerator, else one a processor core.
    With more than one, a run computes on --num-threads threads, by default 1."""
    output: Path | None = None
    """Folder of the comparison; None is runs/compare-TASK or runs/compare-SUITE."""
    resume: bool = False
    """Go on with unfinished runs in the folder; finished ones are never run again."""

    def __post_init__(self) -> None:
        if self.jobs is not None and self.jobs < 1:
            raise InputError(f"--jobs is {self.jobs}; expected a number of processes, 1 or more.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """Say what the runs in a folder show, from what they wrote alone; run it again at any time."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """Folder with runs, however deep, or a file of archived runs; the report is written there."""
    figures: bool = True
    """Draw figures as well."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Archive:
    """Put the finished runs of a folder into one file, which report reads like the folder."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """Folder with runs, however deep; it stays as it is."""
    output: Path | None = None
    """The file, one line a run; None is DIR/runs.jsonl."""


Command = Train[Any] | Compare[Any] | Report | Archive


def run(argv: Sequence[str]) -> int:
    """Do what the command line says; returns the exit code.

    Raises:
        DataAgentError: what is asked for cannot be done; the message says why.
        SystemExit: --help, or flags that do not exist.
    """
    with _modules_here():
        command = parse(argv)
        if isinstance(command, Train):
            with joined_ranks(command.config.recipe):
                return _train(command, argv)
        if num_started() > 1:
            raise InputError(
                f"torchrun started {num_started()} processes, and only train shares its work among "
                "them: compare starts processes itself (--jobs), report needs one. Run it without "
                "torchrun."
            )
        if isinstance(command, Archive):
            stdout().print(write_archive(command.folder, command.output))
            return DONE
        return _report(command) if isinstance(command, Report) else _compare(command, argv)


@contextlib.contextmanager
def _modules_here() -> Generator[None]:
    """Find methods of one's own where the command runs, behind everything that is installed."""
    before = list(sys.path)
    sys.path.append(str(Path.cwd()))
    try:
        yield
    finally:
        sys.path[:] = before


def parse(argv: Sequence[str]) -> Command:
    """Read the command line; the defaults of a task are the defaults of its flags.

    Raises:
        DataAgentError: an unknown task, or a value outside its range.
        SystemExit: --help, or flags that do not exist.
    """
    recipe = recipe_for(_task_in(argv))
    Kind = type(recipe)
    train, compare = Train(config=RunConfig(recipe=recipe)), Compare(recipe=recipe)
    commands = tyro.conf.OmitArgPrefixes[
        Annotated[Train[Kind], tyro.conf.subcommand("train", default=train)]
        | Annotated[Compare[Kind], tyro.conf.subcommand("compare", default=compare)]
        | Annotated[Report, tyro.conf.subcommand("report")]
        | Annotated[Archive, tyro.conf.subcommand("archive")]
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


def _train(command: Train[Any], argv: Sequence[str]) -> int:
    config, recipe = command.config, command.config.recipe
    output = command.output or Path("runs") / f"{recipe.task}-{config.method}-seed{config.seed}"
    resume = command.resume or is_restart()
    with failing_together():
        status = RunFolder(output).status(config.flat())
        if status != "finished":
            check_resumable(output, status, resume=resume)
    if status == "finished":
        _say(f"Already done: {_in_words(RunFolder(output).result(), output)}")
        return DONE
    with nullcontext(silent) if rank() else progress_and_log(logging.INFO) as progress:
        with failing_together():
            data = load_task(recipe, progress)
        with (
            open_run_together(output, config.flat(), resume=resume) as folder,
            stop_requests() as should_stop,
        ):
            result = train_run(
                *(config, data, folder),
                progress=progress,
                should_stop=should_stop,
                sharding=command.sharding,
            )
    if result is None:
        return _say_stopped(argv)
    _say(_in_words(result, output))
    return DONE


def _say(line: str, *, soft_wrap: bool = False) -> None:
    """Print a line of a run's outcome, once however many ranks there are."""
    if rank() == 0:
        stdout().print(line, soft_wrap=soft_wrap)


def _compare(command: Compare[Any], argv: Sequence[str]) -> int:
    grid, jobs, name = _grid(command, argv)
    output = command.output or Path("runs") / f"compare-{name}"
    with hold_output(output):
        pending = pending_runs(grid, output, resume=command.resume)
        outcome = _run_pending(grid, pending, output, jobs) if pending else Outcome()
        if outcome.is_stopped:
            return _say_stopped(argv)
        if len(outcome.failed) < len(grid.runs()):
            _show(output)
    for name, reason in outcome.failed.items():
        stdout().print(f"{name} failed: {reason}")
    return FAILED if outcome.failed else DONE


def _grid(command: Compare[Any], argv: Sequence[str]) -> tuple[Grid, int, str]:
    """All runs that are asked for, how many train at a time, and a name for it."""
    if command.suite is None and command.tasks is None:
        recipes, name = {command.recipe.task: command.recipe}, command.recipe.task
    else:
        _refuse_recipe_flags(argv)
        tasks = None if command.tasks is None else parse_names(command.tasks)
        recipes = suite_recipes(command.suite, tasks=tasks, root=command.data_root)
        name = command.suite or "tasks"
    jobs = command.jobs or _default_jobs(recipes.values())
    if jobs > 1:  # runs that share the processor must not each take all of it
        recipes = {
            task: replace(recipe, num_threads=recipe.num_threads or 1)
            for task, recipe in recipes.items()
        }
    grid = Grid(
        recipes=recipes,
        methods=parse_names(command.methods),
        keep_ratios=parse_keep_ratios(command.keep_ratios),
        seeds=parse_seeds(command.seeds),
    )
    return grid, jobs, name


def _refuse_recipe_flags(argv: Sequence[str]) -> None:
    """The tasks of a suite have recipes of their own, so that their numbers can be compared."""
    settings = (*fields(ImageRecipe), *fields(TextRecipe))
    own = {flag_of(field.name) for field in settings}
    given = [word.partition("=")[0].replace("_", "-") for word in argv if word.startswith("--")]
    refused = [flag for flag in given if flag in own]
    if refused:
        raise InputError(
            f"{', '.join(refused)} cannot be changed in a suite: its tasks have recipes of their "
            "own. To change one, compare on that task alone, with --task NAME instead of --suite "
            "and --tasks."
        )


def _default_jobs(recipes: Iterable[Recipe]) -> int:
    on_cpu = all(choose_device(recipe.device).type == "cpu" for recipe in recipes)
    return num_cpus() if on_cpu else 1


def _run_pending(grid: Grid, pending: Sequence[Run], output: Path, jobs: int) -> Outcome:
    jobs = min(jobs, len(pending))
    with progress_and_log(logging.WARNING) as progress:
        expected = forecast(grid, pending, output, progress=progress)
        for line in expected.in_words(jobs):
            logger.info(line)
        with stop_requests() as should_stop:
            return run_all(
                pending,
                output,
                jobs=jobs,
                seconds=expected.seconds,
                progress=progress,
                should_stop=should_stop,
            )


def _report(command: Report) -> int:
    if not command.folder.exists():
        raise InputError(
            f"{command.folder} is no folder and no file; expected one with runs of data-agent."
        )
    _show(command.folder, figures=command.figures)
    return DONE


def _show(source: Path, *, figures: bool = True) -> None:
    """Write the report of a folder's or an archive's runs, and show its tables."""
    from data_agent_lab.results.report import summarise
    from data_agent_lab.results.tables import FIGURES
    from data_agent_lab.results.writing import show, write

    report = summarise(source)
    folder = source if source.is_dir() else source.parent
    write(report, folder, figures=figures)
    if figures:
        from data_agent_lab.results.figure import draw  # takes long to import

        draw(report, folder / FIGURES)
    show(report, stdout())
    written = ["comparison.md", "comparison.json", *([FIGURES] if figures else [])]
    stdout().print(f"Written to {folder}: {', '.join(written)}.")


def _in_words(result: dict[str, Any], output: Path) -> str:
    overhead = result["overhead_seconds"] / result["train_seconds"]
    return (
        f"{reached_in_words(result)} on {result['evaluation']}, "
        f"{100 * result['cost']:.1f} % of the cost of full training, "
        f"{result['train_seconds']:.1f} s of training of which {100 * overhead:.1f} % to select. "
        f"See {output}."
    )


def _say_stopped(argv: Sequence[str]) -> int:
    words = [*argv] if "--resume" in argv else [*argv, "--resume"]
    command = shlex.join(["data-agent", *words])
    _say(f"Stopped; a checkpoint is written. Go on with: {command}", soft_wrap=True)
    return STOPPED
