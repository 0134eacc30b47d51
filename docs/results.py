"""Writes docs/results/ from benchmarks/results/: `python docs/results.py`, or `make results`.

A page a suite, made of its runs.jsonl alone, and a page of what scripts measured.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_agent.runtime.files import write_text
from data_agent_lab.results.findings import CONTROLS, Cell, Report, Row
from data_agent_lab.results.groups import group_runs
from data_agent_lab.results.records import ARCHIVE, Record, find_runs
from data_agent_lab.results.report import report_of
from data_agent_lab.results.statistics import Estimate
from data_agent_lab.results.tables import format_estimate

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "benchmarks" / "results"
PAGES = ROOT / "docs" / "results"

# Suites of a single method, which are compared with the controls of others, the first that has one.
CONTROLLED_BY: Mapping[str, Sequence[str]] = {
    "ablations": ("core",),
    "agent-39dc338": ("agent-5374e66", "core", "held-out"),
    "agent-5374e66": ("core", "held-out", "language"),
    "agent-before": ("agent-5374e66", "core", "language"),
    "detection-before": ("detection",),
    "in-batch": ("core",),
    "long-before": ("long",),
    "mmlu-path-before": ("mmlu-path",),
    "prompts-limits-before": ("prompts-limits",),
    "prompts-before": ("prompts",),
    "reasoning-before": ("reasoning",),
    "trusted-before": ("trusted",),
    "trusted-features": ("trusted", "trusted-memorised"),
    "trusted-uncalibrated": ("trusted", "trusted-memorised"),
    "trusted-100-uncalibrated": ("trusted-100",),
    "trusted-independent": ("trusted", "trusted-memorised", "mixtures"),
}
COLUMNS = {
    "to random": "to_random",
    "to full-short": "to_full_short",
    "to full training": "to_full",
}
OF_PAGES = ("audit", "kills", "plan")  # deeper than a table; docs/audit.md and others tell them
LONGEST = 64  # letters of a title
WIDEST = 8  # values of a record within a record that a table shows
HEAD = "<!-- Made by `make results` of benchmarks/results; changes here are lost. -->"


def main() -> None:
    """Write every page, and remove those of suites that are gone."""
    pages = all_pages()
    for path in {*PAGES.glob("*.md")} - {PAGES / name for name in pages}:
        path.unlink()
    PAGES.mkdir(exist_ok=True)
    for name, text in pages.items():
        write_text(PAGES / name, text)


def all_pages() -> dict[str, str]:
    """The text of each page by its file's name."""
    told = described()
    suites = sorted(path.parent.name for path in SOURCE.glob(f"*/{ARCHIVE}"))
    if missing := [name for name in suites if name not in told]:
        raise SystemExit(f"{SOURCE / 'README.md'} has no line on {', '.join(missing)}.")
    pages = {f"{name}.md": suite_page(name, *told[name]) for name in suites}
    return {"README.md": contents(suites, told), **pages, "scripts.md": scripts_page()}


def described() -> dict[str, Sequence[str]]:
    """By suite what it is, which agent it holds and what was typed: the table of README.md."""
    rows = re.findall(r"^\| `([\w-]+)` \| (.*) \|$", (SOURCE / "README.md").read_text(), re.M)
    return {name: re.split(r" \| ", cells) for name, cells in rows}


def contents(suites: Iterable[str], told: Mapping[str, Sequence[str]]) -> str:
    """The page that leads to the others."""
    rows = [(f"[{name}]({name}.md)", told[name][0]) for name in suites]
    return joined(
        "# All results",
        HEAD,
        "A page a suite, with every method on every task. Each is made of the suite's runs, which "
        "are [in the repository](../../benchmarks/results/README.md), one a line, with the "
        "command, the commit, the machine and the versions.",
        table(("suite", "what it is"), rows),
        "[What scripts measured](scripts.md) has speed, counts of operations and memory. What all "
        "of it says is told on [when it helps](../when-it-helps.md), "
        "[what each part brings](../ablations.md) and [what choosing costs](../cost.md).",
    )


def suite_page(name: str, what: str, agent: str, command: str) -> str:
    """The page of a suite: at each keep ratio what was reached, and the differences to controls."""
    report = report_on(name)
    facts = [f"Our agent: {agent}."] if agent != "none" else []
    if others := CONTROLLED_BY.get(name):
        facts.append(f"The controls are those of {' and '.join(f'`{one}`' for one in others)}.")
    facts.append(f"Made by `data-agent compare` with {command.removeprefix('with ')}.")
    return joined(
        f"# {title_of(name, what)}",
        HEAD,
        f"{what[0].upper()}{what[1:]}. {' '.join(facts)}",
        "The metric is that of the last epoch. Differences are paired by seed and have 95 % "
        "intervals, in brackets those of two seeds, which are no claim; bold ones lie beyond "
        "theirs. Cost, time, intervals over tasks and the recipes are in the "
        f"[report](../../benchmarks/results/{name}/comparison.md).",
        *(part for ratio in ratios_of(report) for part in at_ratio(report, ratio)),
    )


def title_of(name: str, what: str) -> str:
    """A suite's name, and what it is as far as a line has room; seeds are in its tables."""
    told = re.sub(r", (\w+ to )?\w+ (fresh )?seeds$", "", re.split(r"[;:?]", what)[0])
    told = told if len(told) <= LONGEST else told.partition(",")[0]
    return f"{name[0].upper()}{name[1:]}: {told}"


def report_on(name: str) -> Report:
    """The report on a suite's runs, beside the controls that it shares with others."""
    records, _ = find_runs(SOURCE / name / ARCHIVE)
    recipes = {recipe for group in group_runs(records) for recipe in [group.name]}
    for other in CONTROLLED_BY.get(name, ()):
        found, _ = find_runs(SOURCE / other / ARCHIVE)
        known = {ran(one) for one in records}
        records += [
            one
            for one in found
            if one.configuration["method"] in CONTROLS and ran(one) not in known
        ]
    groups = [group for group in group_runs(records) if group.name in recipes]
    return report_of(groups, [], source=SOURCE / name)


def ran(record: Record) -> tuple[object, ...]:
    """Of what a record is: task, method, keep ratio and seed."""
    return tuple(record.configuration[name] for name in ("task", "method", "keep_ratio", "seed"))


def ratios_of(report: Report) -> list[float]:
    """The keep ratios of a report, the largest first."""
    return sorted({cell.keep_ratio for task in report.tasks for cell in task.cells}, reverse=True)


def at_ratio(report: Report, keep_ratio: float) -> list[str]:
    """A section: a table of what was reached, and one for each control that was run."""
    cells = [cell for task in report.tasks for cell in task.cells if cell.keep_ratio == keep_ratio]
    parts = [f"## Keep ratio {keep_ratio}", matrix("reached", cells, "value")]
    for title, field in COLUMNS.items():
        if any(getattr(row, field) for cell in cells for row in cell.rows):
            parts.append(matrix(title, cells, field))
    return parts


def matrix(title: str, cells: Sequence[Cell], field: str) -> str:
    """A line a method, a column a task; a metric or a number of seeds that all share says so."""
    methods = dict.fromkeys(row.method for cell in cells for row in cell.rows)
    rows = [
        (f"`{name}`", *(figure(cell, cell.row(name), field) for cell in cells)) for name in methods
    ]
    shared = {measured(cell) for cell in cells}
    heads = [cell.task if len(shared) == 1 else f"{cell.task}: {measured(cell)}" for cell in cells]
    of_all = f", {shared.pop()}" if len(shared) == 1 else ""
    return f"**{title}{of_all}**\n\n" + table(
        ("method", *heads), [row for row in rows if any(row[1:])]
    )


def measured(cell: Cell) -> str:
    """The metric of a task, which way is better where that is not plain, and how many seeds."""
    lower = ", lower is better" if cell.metric.sign < 0 else ""
    seeds = " or ".join(str(n) for n in sorted({row.value.count for row in cell.rows}))
    return f"{cell.metric.in_words()}{lower}, seeds: {seeds}"


def figure(cell: Cell, row: Row | None, field: str) -> str:
    """What a table says of a method on a task; nothing where it was not run."""
    found: Estimate | None = None if row is None else getattr(row, field)
    if found is None:
        return ""
    text = format_estimate(found, sign=field != "value", digits=cell.metric.digits)
    is_beyond = found.half_width is not None and abs(found.mean) > found.half_width
    return f"**{text}**" if field != "value" and is_beyond and found.count > 2 else text


def scripts_page() -> str:
    """What scripts measured: the flat tables in their JSON files."""
    parts: list[str] = []
    for path in sorted(SOURCE.glob("*.json")):
        content = json.loads(path.read_text())
        tables = [] if path.stem in OF_PAGES else list(tables_in(content))
        if tables:
            parts += [f"## {path.stem}", told_of(path, content.get("environment", {})), *tables]
    return joined(
        "# What scripts measured",
        HEAD,
        "The plain tables of the files that [scripts](../../benchmarks/results/README.md) wrote, "
        "to four digits. Lists, and what is nested deeper, are in the files.",
        *parts,
    )


def told_of(path: Path, environment: Mapping[str, Any]) -> str:
    """Where a file comes from."""
    facts = {name: environment.get(name) for name in ("cpu", "gpu", "torch", "commit")}
    machine = [f"{name} {value}" for name, value in facts.items() if value]
    file = f"[{path.name}](../../benchmarks/results/{path.name})"
    return ", ".join([file, *machine]) + "."


def tables_in(content: Mapping[str, Any]) -> Iterable[str]:
    """Every list of flat records in a file, and every mapping of names to such records."""
    for name, value in content.items():
        if name == "environment" or not value:
            continue
        rows: list[dict[str, Any]] = []
        if isinstance(value, list) and all(isinstance(one, dict) for one in value):
            rows = [flat(one) for one in value]
        elif isinstance(value, dict) and all(isinstance(one, dict) for one in value.values()):
            rows = [{"": key, **flat(one)} for key, one in value.items()]
        columns = dict.fromkeys(column for row in rows for column in row)
        if len(columns) > 1:
            yield f"**{name}**"
            yield table(columns, [[number(row.get(column)) for column in columns] for row in rows])


def flat(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record's plain values, and those one level below."""
    plain: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, dict):
            inner = {f"{name}: {key}": one for key, one in value.items()}
            plain |= inner if len(inner) <= WIDEST else {}
        else:
            plain[name] = value
    return {name: value for name, value in plain.items() if not isinstance(value, dict | list)}


def number(value: Any) -> str:
    """A value in a table."""
    if value is None:
        return ""
    return f"{value:,.4g}" if isinstance(value, float) and abs(value) < 1e4 else str(value)


def table(columns: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    head = [*columns]
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in lines)


def joined(*parts: str) -> str:
    """Parts of a page, a blank line between."""
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    main()
