"""What the commands of `data-agent` take; `actions` does it.

Nothing here imports torch, so that `--help` and mistakes are answered at once.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic

import tyro

from data_agent.errors import DataAgentError
from data_agent_lab.detection_recipe import DetectionRecipe
from data_agent_lab.progress import Tracker
from data_agent_lab.recipes import PromptRecipe, R, Recipe, RunConfig
from data_agent_lab.rules import Count, Positive, check_fields
from data_agent_lab.tasks import DATA_ROOT, DEFAULT_TASK, SUITES, recipe_for

_SUITE = f"Tasks to compare on: {', '.join(SUITES)}; None is that of --task."


@dataclass(frozen=True, kw_only=True, slots=True)
class Train(Generic[R]):
    """Train a model with one method of choosing samples; under torchrun, on several ranks."""

    config: RunConfig[R]
    output: Path | None = None
    """Folder of the run; None is runs/TASK-METHOD-seedSEED."""
    resume: bool = False
    """Go on with the unfinished run in the folder; on after a restart by torchrun."""
    time_limit: Positive | None = None
    """Minutes from the start of the command, above 0, after which it stops with a checkpoint and
    exit code 75; None does not stop."""
    log: Tracker | None = None
    """Send the metrics of the run to tensorboard (files in its folder), wandb or trackio too."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan(Generic[R]):
    """Say what a run of train will be, without training it: phases, steps, memory, time, advice."""

    config: RunConfig[R]
    time: bool = True
    """Train for a second and evaluate a part, to say what time the run will take."""
    pilot: bool = False
    """Train full-short, random, label-aware and data-agent in short with two seeds, for about a
    quarter of what full training costs, and look at them before advising."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Compare(Generic[R]):
    """Train methods in one and the same loop, at several budgets, with several seeds, and compare.

    One task with the flags of its recipe, or a suite of tasks with recipes of their own.
    """

    recipe: R
    suite: Annotated[str | None, tyro.conf.arg(help=_SUITE)] = None
    tasks: str | None = None
    """Some of the suite's tasks, separated by commas; without --suite, of all suites."""
    data_root: Path = DATA_ROOT
    """Folder with the suite's data: cifar10, cifar10n, tiny_imagenet_32, sst2, t0_mix, ..."""
    methods: str = "full,full-short,random,data-agent"
    """Methods to compare, separated by commas."""
    keep_ratios: str = "0.5"
    """Shares of the training samples visited in an epoch, in (0, 1], separated by commas."""
    seeds: str = "3"
    """A count (5 is 0 to 4), or seeds separated by commas ("7," is one alone); two or more give
    intervals, five are a claim."""
    jobs: Count | None = None
    """Runs that train at the same time; None is 1 on an accelerator, else one a processor core.
    With more than one, a run computes on --num-threads threads, by default 1."""
    output: Path | None = None
    """Folder of the comparison; None is runs/compare-TASK or runs/compare-SUITE."""
    resume: bool = False
    """Go on with unfinished runs in the folder; finished ones are never run again."""
    time_limit: Positive | None = None
    """Minutes from the start of the command, above 0, after which it stops with checkpoints and
    exit code 75; None does not stop."""
    log: Tracker | None = None
    """Send the metrics of every run to tensorboard (files in its folder), wandb or trackio too."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """Say what the runs in a folder show, from what they wrote alone; run it again at any time."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """Folder with runs, however deep, or a file of archived runs; the report is written there."""
    figures: bool = True
    """Draw figures as well."""
    html: bool = True
    """Write report.html as well, a page that a browser opens without a network."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Archive:
    """Put the finished runs of a folder into one file, which report reads like the folder."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """Folder with runs, however deep; it stays as it is."""
    output: Path | None = None
    """The file, one line a run; None is DIR/runs.jsonl."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Audit:
    """Say what in a run's data is worth a look: wrong labels, what was never learned, duplicates.

    Written to a folder as audit.html, a page that a browser opens without a network, findings.csv,
    findings.parquet and audit.json.
    """

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of a finished run, or a Parquet or CSV file with the numbers of samples."""
    budget: Count = 200
    """Findings of each kind, those to look at first, 1 or more."""
    duplicates: bool = True
    """Look for near-duplicates, for which the run's data are loaded."""
    features: Path | None = None
    """NumPy file, a row of floats for each sample, to find near-duplicates from; None makes
    sketches of the run's data."""
    drop: str | None = None
    """Kinds of findings to leave out of the next training, separated by commas: wrong-label,
    never-learned, redundant. Writes kept.parquet, an index of what a training keeps."""
    datalab: bool = False
    """Write datalab.npz as well, with the arrays that cleanlab's Datalab takes."""
    output: Path | None = None
    """Folder to write to; None is audit in the run's folder, or beside NAME.csv audit-NAME."""

    def __post_init__(self) -> None:
        check_fields(self)


Command = Train[Any] | Plan[Any] | Compare[Any] | Report | Archive | Audit


def parse(argv: Sequence[str]) -> Command:
    """Read the command line; the defaults of a task are the defaults of its flags.

    Raises:
        DataAgentError: an unknown task, or a value outside its range.
        SystemExit: --help, or flags that do not exist.
    """
    recipe = recipe_for(_task_in(argv))
    Kind = type(recipe)

    def subcommand(name: str, default: Train[Any] | Plan[Any] | Compare[Any]) -> Any:
        note = f"Flags and defaults are those of --task {recipe.task}; each task has its own."
        text = f"{inspect.getdoc(type(default))}\n\n{note}"
        return tyro.conf.subcommand(name, default=default, description=text)

    run, compare = _defaults(recipe)
    commands = tyro.conf.OmitArgPrefixes[
        Annotated[Train[Kind], subcommand("train", Train(config=run))]
        | Annotated[Plan[Kind], subcommand("plan", Plan(config=run))]
        | Annotated[Compare[Kind], subcommand("compare", compare)]
        | Annotated[Report, tyro.conf.subcommand("report")]
        | Annotated[Archive, tyro.conf.subcommand("archive")]
        | Annotated[Audit, tyro.conf.subcommand("audit")]
    ]
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            return tyro.cli(commands, prog="data-agent", args=list(argv))
    except SystemExit as end:
        _raise_own_error(end)
        sys.stderr.write(printed.getvalue())
        raise


def _defaults(recipe: Recipe) -> tuple[RunConfig[Any], Compare[Any]]:
    """A run and a comparison of a task; prompts and detection have methods of their own."""
    if isinstance(recipe, PromptRecipe):
        run = RunConfig(recipe=recipe, method="prompt-agent")
        return run, Compare(recipe=recipe, methods="random,prompt-agent")
    if isinstance(recipe, DetectionRecipe):
        methods = "full,full-short,random,data-agent,infobatch,afss"
        return RunConfig(recipe=recipe), Compare(recipe=recipe, methods=methods)
    return RunConfig(recipe=recipe), Compare(recipe=recipe)


def _raise_own_error(end: SystemExit) -> None:
    """Raise our error that made the parser give up, whose own words name its internals."""
    error: BaseException | None = end
    while error is not None:
        if isinstance(error, DataAgentError):
            raise error from None
        error = error.__context__


def _task_in(argv: Sequence[str]) -> str:
    """The task, read before all else because the other defaults depend on it.

    Of a suite it is the first one.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--suite", nargs="?")
    parser.add_argument("--task", nargs="?", const=DEFAULT_TASK)
    given = parser.parse_known_args(list(argv))[0]
    return given.task or SUITES.get(given.suite, [DEFAULT_TASK])[0]
