"""What the commands of `data-agent` do."""

from __future__ import annotations

import logging
import math
import shlex
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_agent.errors import InputError
from data_agent.runtime.distributed import failing_together, rank
from data_agent_lab.commands import Archive, Audit, Command, Compare, Plan, Report, Train
from data_agent_lab.comparing.execution import RunOutcome
from data_agent_lab.comparing.forecast import forecast, timed
from data_agent_lab.comparing.grid import all_runs, parse_keep_ratios, parse_names, parse_seeds
from data_agent_lab.comparing.session import hold_output, pending_runs, run_all
from data_agent_lab.comparing.workers import prepare_workers
from data_agent_lab.detection_recipe import DetectionRecipe
from data_agent_lab.progress import Tracker, silent
from data_agent_lab.recipes import ImageRecipe, PromptRecipe, RunConfig, TextRecipe
from data_agent_lab.results.records import write_archive
from data_agent_lab.rules import flag_of
from data_agent_lab.runs.environment import num_cpus
from data_agent_lab.runs.folder import RunFolder
from data_agent_lab.runs.result import reached_in_words
from data_agent_lab.runs.tracking import check_tracker
from data_agent_lab.tasks import load_kept, load_task, suite_recipes
from data_agent_lab.terminal import progress_and_log, stdout, stop_requests
from data_agent_lab.training.plan import check_trusted, sizes
from data_agent_lab.training.ranks import (
    choose_device,
    is_restart,
    joined_ranks,
    num_started,
    open_run_together,
)
from data_agent_lab.training.run import train_run

if TYPE_CHECKING:
    from data_agent_lab.results.findings import Report as Findings
    from data_agent_lab.results.groups import Group

logger = logging.getLogger(__name__)

DONE, FAILED, STOPPED = 0, 1, 130
OUT_OF_TIME = 75  # EX_TEMPFAIL of sysexits.h: try again


def do(command: Command, argv: Sequence[str]) -> int:
    """Do what a command says, which was read from `argv`; returns the exit code.

    Raises:
        DataAgentError: it cannot be done; the message says why.
    """
    if isinstance(command, Train):
        with joined_ranks(command.config.recipe):
            return _train(command, argv)
    if num_started() > 1:
        raise InputError(
            f"torchrun started {num_started()} processes, and only train shares its work among "
            "them: compare starts processes itself (--jobs), report needs one. Run it without "
            "torchrun."
        )
    if isinstance(command, Plan):
        _plan(command)
        return DONE
    if isinstance(command, Compare):
        return _compare(command, argv)
    if isinstance(command, Archive):
        stdout().print(write_archive(command.folder, command.output))
    elif isinstance(command, Audit):
        _audit(command, argv)
    else:
        _show(command.folder, command)
    return DONE


def _train(command: Train[Any], argv: Sequence[str]) -> int:
    deadline = _deadline(command)
    check_tracker(command.log)
    config, recipe = command.config, command.config.recipe
    output = command.output or Path("runs") / f"{recipe.task}-{config.method}-seed{config.seed}"
    resume = command.resume or is_restart()
    with failing_together():
        is_pending = RunFolder(output).is_pending(config.flat(), resume=resume)
    if not is_pending:
        _print_once(f"Already done: {_in_words(RunFolder(output).result(), output)}")
        return DONE
    with nullcontext(silent) if rank() else progress_and_log(logging.INFO) as progress:
        with failing_together():
            data = load_task(recipe, progress)
            check_trusted([config], *sizes(recipe, data))
        with (
            open_run_together(output, config.flat(), resume=resume) as folder,
            stop_requests(deadline) as should_stop,
        ):
            result = train_run(
                *(config, data, folder),
                tracker=command.log,
                progress=progress,
                should_stop=should_stop,
            )
    if result is None:
        return _print_stopped(argv, deadline)
    _print_once(_in_words(result, output))
    if rank() == 0:
        _write_page(output, *_read(output), may_download=True)
    return DONE


def _plan(command: Plan[Any]) -> None:
    """Say what a run will be, and whether to select."""
    from data_agent_lab.planning.advice import advise
    from data_agent_lab.planning.pilot import run_pilot
    from data_agent_lab.planning.plan import plan_of
    from data_agent_lab.planning.words import advice_in_words, in_words

    config, pilot = command.config, None
    with progress_and_log(logging.WARNING) as progress:
        data = load_kept(config.recipe, progress)
    plan = plan_of(config, data)
    recipe = replace(config.recipe, keep_index=None)  # the data are those that it keeps
    for line in in_words(plan, timed(recipe, data) if command.time else None):
        stdout().print(line, soft_wrap=True)
    if command.pilot:
        with progress_and_log(logging.WARNING) as progress, stop_requests() as should_stop:
            pilot = run_pilot(config, data, progress=progress, should_stop=should_stop)
    facts, values = plan.facts, {}
    if pilot is not None:
        facts, values = replace(facts, doubted=pilot.doubted), pilot.values
    for line in advice_in_words(advise(facts, values), pilot):
        stdout().print(line, soft_wrap=True)


def _compare(command: Compare[Any], argv: Sequence[str]) -> int:
    deadline = _deadline(command)
    check_tracker(command.log)
    runs, jobs, name = runs_of(command, argv)
    output = command.output or Path("runs") / f"compare-{name}"
    with hold_output(output):
        pending = pending_runs(runs, output, resume=command.resume)
        outcomes: dict[str, RunOutcome] = {}
        if pending:
            outcomes = _run_pending(runs, pending, output, jobs, command.log, deadline)
        if any(outcome.is_stopped for outcome in outcomes.values()):
            return _print_stopped(argv, deadline)
        failures = {name: outcome.failure for name, outcome in outcomes.items() if outcome.failure}
        if len(failures) < len(runs):
            _show(output)
    for name, reason in failures.items():
        stdout().print(f"{name} failed: {reason}")
    return FAILED if failures else DONE


def runs_of(command: Compare[Any], argv: Sequence[str]) -> tuple[list[RunConfig[Any]], int, str]:
    """All runs of a comparison, how many train at a time, and a name for it."""
    if command.suite is None and command.tasks is None:
        recipes, name = [command.recipe], command.recipe.task
    else:
        _refuse_recipe_flags(argv)
        tasks = None if command.tasks is None else parse_names(command.tasks)
        recipes = suite_recipes(command.suite, tasks=tasks, root=command.data_root)
        name = command.suite or "tasks"
    jobs = command.jobs
    if jobs is None:
        on_cpu = all(choose_device(recipe.device).type == "cpu" for recipe in recipes)
        jobs = num_cpus() if on_cpu else 1
    if jobs > 1:  # runs that share the processor must not each take all of it
        recipes = [replace(recipe, num_threads=recipe.num_threads or 1) for recipe in recipes]
    runs = all_runs(
        recipes,
        methods=parse_names(command.methods),
        keep_ratios=parse_keep_ratios(command.keep_ratios),
        seeds=parse_seeds(command.seeds),
    )
    return runs, jobs, name


def _refuse_recipe_flags(argv: Sequence[str]) -> None:
    """The tasks of a suite have recipes of their own, so that their numbers can be compared."""
    kinds = (ImageRecipe, TextRecipe, DetectionRecipe, PromptRecipe)
    own = {flag_of(field.name) for kind in kinds for field in fields(kind)}
    given = [word.partition("=")[0].replace("_", "-") for word in argv if word.startswith("--")]
    if refused := [flag for flag in given if flag in own]:
        raise InputError(
            f"{', '.join(refused)} cannot be changed in a suite: its tasks have recipes of their "
            "own. To change one, compare on that task alone, with --task NAME instead of --suite "
            "and --tasks."
        )


def _run_pending(
    runs: Sequence[RunConfig[Any]],
    pending: Sequence[RunConfig[Any]],
    output: Path,
    jobs: int,
    tracker: Tracker | None,
    deadline: float,
) -> dict[str, RunOutcome]:
    jobs = min(jobs, len(pending))
    if jobs > 1:
        prepare_workers()
    with progress_and_log(logging.WARNING) as progress:
        expected = forecast(runs, pending, output, progress=progress)
        for line in expected.in_words(jobs):
            logger.info(line)
        with stop_requests(deadline) as should_stop:
            return run_all(
                pending,
                output,
                jobs=jobs,
                tracker=tracker,
                seconds=expected.seconds,
                progress=progress,
                should_stop=should_stop,
            )


def _show(source: Path, command: Report | None = None) -> None:
    """Write the report of a folder's or an archive's runs, and show its tables.

    All of it for runs of our own; what `command` says for any others, and nothing is downloaded.
    """
    from data_agent_lab.results.tables import FIGURES
    from data_agent_lab.results.writing import show, write

    report, groups = _read(source)
    folder = source if source.is_dir() else source.parent
    figures = command is None or command.figures
    write(report, folder, figures=figures)
    written = ["comparison.md", "comparison.json"]
    if figures:
        from data_agent_lab.results.figure import draw  # takes long to import

        draw(report, folder / FIGURES)
        written.append(FIGURES)
    show(report, stdout())
    stdout().print(f"Written to {folder}: {', '.join(written)}.")
    if command is None or command.html:
        _write_page(folder, report, groups, may_download=command is None)


def _read(source: Path) -> tuple[Findings, Sequence[Group]]:
    """The report on the runs of a folder or an archive, and these."""
    from data_agent_lab.results.groups import read_groups
    from data_agent_lab.results.report import report_of

    groups, unfinished = read_groups(source)
    return report_of(groups, unfinished, source=source), groups


def _write_page(
    folder: Path, report: Findings, groups: Sequence[Group], *, may_download: bool
) -> None:
    """Write report.html, and say where a browser finds it."""
    from data_agent_lab.page.writing import write_page

    _name_page(write_page(report, groups, folder, may_download=may_download))


def _audit(command: Audit, argv: Sequence[str]) -> None:
    """Audit a run or numbers of samples, write what was found, and say the first of it."""
    from data_agent_lab.auditing.audit import audit_of, parse_kinds, write_audit
    from data_agent_lab.auditing.datalab import write_datalab
    from data_agent_lab.auditing.words import in_words
    from data_agent_lab.page.audit import write_audit_page

    source = command.source
    drop = [] if command.drop is None else parse_kinds(command.drop)
    beside = source / "audit" if source.is_dir() else source.parent / f"audit-{source.stem}"
    folder = command.output or beside
    audit = audit_of(
        source,
        budget=command.budget,
        duplicates=command.duplicates,
        features=command.features,
    )
    written = write_audit(audit, folder, drop=drop)
    if command.datalab:
        written.append(write_datalab(audit, folder))
    words = shlex.join(["data-agent", *argv])
    path = write_audit_page(audit, source, folder, command=words)
    for line in in_words(audit, drop=drop):
        stdout().print(line, soft_wrap=True, highlight=False, markup=False)
    stdout().print(f"Written to {folder}: {', '.join(written)}.")
    _name_page(path)


def _name_page(path: Path) -> None:
    stdout().print(f"Open it in a browser: {path.resolve().as_uri()}", soft_wrap=True)


def _print_once(line: str, *, soft_wrap: bool = False) -> None:
    """Print a line, once however many ranks there are."""
    if rank() == 0:
        stdout().print(line, soft_wrap=soft_wrap)


def _deadline(command: Train[Any] | Compare[Any]) -> float:
    """When a command that starts now must stop, of `time.monotonic`."""
    limit = command.time_limit
    return math.inf if limit is None else time.monotonic() + 60 * limit


def _print_stopped(argv: Sequence[str], deadline: float) -> int:
    words = [*argv] if "--resume" in argv else [*argv, "--resume"]
    command = shlex.join(["data-agent", *words])
    is_late = time.monotonic() >= deadline
    why = "The time limit is over" if is_late else "Stopped"
    _print_once(f"{why}; a checkpoint is written. Go on with: {command}", soft_wrap=True)
    return OUT_OF_TIME if is_late else STOPPED


def _in_words(result: Mapping[str, Any], output: Path) -> str:
    overhead = result["overhead_seconds"] / result["train_seconds"]
    return (
        f"{reached_in_words(result)} on {result['evaluation']}, "
        f"{100 * result['cost']:.1f} % of the cost of full training, "
        f"{result['train_seconds']:.1f} s of training of which {100 * overhead:.1f} % to select. "
        f"See {output}."
    )
