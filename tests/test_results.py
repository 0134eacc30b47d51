"""What pages say was measured is what the stored runs say: every table, every figure."""

import importlib.util
import json
import re
from collections import defaultdict
from functools import cache
from itertools import chain, permutations
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("data_agent_lab.methods", reason="needs pip install '.[lab]'")

from data_agent.testing import LAWS
from data_agent_lab.results.groups import group_runs
from data_agent_lab.results.records import find_runs
from data_agent_lab.results.statistics import Estimate, estimate, mean_over_tasks, paired_difference
from data_agent_lab.results.tables import format_estimate, format_spread

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
MADE = ROOT / "docs" / "results"
PAGES = [ROOT / "README.md", *sorted({*ROOT.glob("docs/**/*.md")} - {*MADE.glob("*.md")})]
WHEN = ROOT / "docs" / "when-it-helps.md"
ROWS = {ROOT / "README.md": 13, WHEN: 41, ROOT / "docs" / "trusted.md": 77}  # that are looked at

# The task that a line of a table is of, by how it begins; of a suite that others repeat, `@` it.
TASKS = {
    "CIFAR-10, long tail 50:1, 500 trusted rows": "trusted-tail50",
    "CIFAR-10, half foreign digits, 500 trusted rows": "trusted-digits",
    "CIFAR-10, 40 % wrong labels, 500 trusted rows": "trusted-noise40",
    "Tiny-ImageNet, half foreign digits, 850 trusted rows (held out)": (
        "trusted-tiny-digits@held-out-trusted"
    ),
    "CIFAR-10N, human errors, 500 trusted rows": "trusted-worse",
    "instructions of four sources, one wanted, 128 trusted rows (loss: lower is better)": (
        "mix-gsm8k@mixtures"
    ),
    "the same without augmentation: labels are memorised": "cifar10-noise40@trusted-memorised",
    "CIFAR-10, long tail 50:1": "cifar10-long-tail",
    "MNIST, long tail 100:1, 200 trusted rows (held out)": "trusted-mnist-tail@held-out-trusted",
    "CIFAR-10, 30 % wrong labels": "cifar10-noise30",
    "CIFAR-10, 40 % wrong labels (held out)": "cifar10-noise40",
    "CIFAR-10, 40 % wrong labels": "cifar10-noise40",
    "CIFAR-10, wrong labels by human hand": "cifar10n-worse",
    "CIFAR-10N, 40 % wrong labels by human hand": "cifar10n-worse",
    "CIFAR-10, clean, far from converged": "cifar10-underfit",
    "CIFAR-10, far from converged": "cifar10-underfit",
    "CIFAR-10, memorised": "cifar10-saturate",
    "CIFAR-10, 60 % near-duplicates": "cifar10-duplicates",
    "CIFAR-10, 60 % near-duplicates (frozen)": "cifar10-duplicates@duplicates-method",
    "Tiny-ImageNet, long tail 20:1 (held out)": "tiny-imagenet-long-tail",
    "Tiny-ImageNet, 170 classes, long tail 20:1": "tiny-imagenet-long-tail",
    "Tiny-ImageNet, 170 classes, 30 % wrong labels": "tiny-imagenet-noise30",
    "Tiny-ImageNet, 170 classes": "tiny-imagenet",
    "MNIST, clean, easy": "mnist",
    "MNIST, 40 % wrong labels": "mnist-noise40",
    "SST-2": "sst2",
    "SST-2, 30 % of the labels flipped": "sst2-noise30",
    "Shakespeare, small language model (loss: lower is better)": "shakespeare",
    "Shakespeare": "shakespeare",
    "GSM8K": "gsm8k",
    "instructions (1,473 rows; 716 more had no completion within 256 tokens)": "t0-mix",
    "CIFAR-10, half foreign digits": "foreign-digits",
    "CIFAR-10, half photos of other classes": "foreign-photos",
    "MNIST, half foreign photos (held out)": "foreign-mnist",
    "Tiny-ImageNet, half foreign digits (held out)": "foreign-tiny-digits",
    "long tail 50:1": "trusted-tail50",
    "half of the rows are digits with labels at random": "trusted-digits",
    "half are photos of other classes with labels at random": "trusted-photos",
    "long tail 20:1": "trusted-tail20",
    "30 % wrong labels at random": "trusted-noise30",
    "9 % wrong labels by human hand (CIFAR-10N aggregate)": "trusted-aggregate",
    "60 % near-duplicates": "trusted-duplicates",
    "40 % wrong labels at random": "trusted-noise40",
    "40 % wrong labels at random, no augmentation": "cifar10-noise40@trusted-memorised",
    "40 % wrong labels by human hand (CIFAR-10N worse)": "trusted-worse",
    "clean": "trusted-clean",
    "long tail 50:1, 100 rows": "trusted-tail50@trusted-100",
    "half of the rows are digits, 100 rows": "trusted-digits@trusted-100",
    "40 % wrong labels at random, 100 rows": "trusted-noise40@trusted-100",
    "40 % wrong labels at random, a tenth of 500 rows wrong": "trusted-noise40@trusted-dirty",
    "clean, 500 rows in shares of 10:1": "trusted-clean@trusted-biased",
    "GSM8K, of four sources": "mix-gsm8k@mixtures",
    "code, of four sources": "mix-code@mixtures",
    "code, of four sources, 64 rows (nats a token)": "mix-code@mixtures-64",
    "Alpaca, of four sources (held out)": "mix-alpaca@held-out-trusted",
    "long tail 50:1, 250 rows": "trusted-tail50@trusted-250",
    "half of the rows are digits, 250 rows": "trusted-digits@trusted-250",
    "half are photos of other classes, 250 rows": "trusted-photos@trusted-250",
    "half are photos of other classes, 100 rows": "trusted-photos@trusted-100",
    "40 % wrong labels at random, 250 rows": "trusted-noise40@trusted-250",
    "40 % wrong labels by human hand, 100 rows": "trusted-worse@trusted-100",
    "clean, 250 rows": "trusted-clean@trusted-250",
    "clean, 100 rows": "trusted-clean@trusted-100",
    "long tail 20:1, 250 rows": "trusted-tail20@trusted-250",
    "long tail 20:1, 100 rows": "trusted-tail20@trusted-100",
    "30 % wrong labels at random, 250 rows": "trusted-noise30@trusted-250",
    "30 % wrong labels at random, 100 rows": "trusted-noise30@trusted-100",
    "40 % wrong labels by human hand, 250 rows": "trusted-worse@trusted-250",
    "9 % wrong labels by human hand, 250 rows": "trusted-aggregate@trusted-250",
    "9 % wrong labels by human hand, 100 rows": "trusted-aggregate@trusted-100",
    "60 % near-duplicates, 250 rows": "trusted-duplicates@trusted-250",
    "60 % near-duplicates, 100 rows": "trusted-duplicates@trusted-100",
    "half of the rows are digits, a tenth of 500 rows wrong": "trusted-digits@trusted-dirty",
    "long tail 50:1, 500 rows in shares of 10:1": "trusted-tail50@trusted-biased",
    "long tail 50:1, a tenth of 500 rows wrong": "trusted-tail50@trusted-dirty",
    "40 % wrong labels by human hand, a tenth of 500 rows wrong": "trusted-worse@trusted-dirty",
    "40 % wrong labels at random, 500 rows in shares of 10:1": "trusted-noise40@trusted-biased",
    "half of the rows are digits, 500 rows in shares of 10:1": "trusted-digits@trusted-biased",
    "long tail 50:1, 50 rows": "trusted-tail50@trusted-50",
    "long tail 50:1, 20 rows": "trusted-tail50@trusted-20",
    "half of the rows are digits, 50 rows": "trusted-digits@trusted-50",
    "half of the rows are digits, 20 rows": "trusted-digits@trusted-20",
    "40 % wrong labels at random, no augmentation, 250 rows": "cifar10-noise40@trusted-250-others",
    "40 % wrong labels at random, no augmentation, 100 rows": "cifar10-noise40@trusted-100-others",
    "SST-2, 30 % of the labels flipped, 250 rows": "trusted-sst2@trusted-250-others",
    "SST-2, 30 % of the labels flipped, 100 rows": "trusted-sst2@trusted-100-others",
    "MNIST, long tail 100:1, 200 rows": "trusted-mnist-tail@held-out-trusted",
    "Tiny-ImageNet, 170 classes, half of the rows are digits, 850 rows": (
        "trusted-tiny-digits@held-out-trusted"
    ),
    "CIFAR-10N random1, 17 % wrong by human hand, 500 rows": "trusted-human@held-out-trusted",
    "SST-2, 30 % of the labels flipped, 500 rows": "trusted-sst2@held-out-trusted",
}
CONTROLS = {
    "to `random`": "random",
    "to `class-balanced-random`": "class-balanced-random",
    "to `label-aware`": "label-aware",
    "to `full-short`": "full-short",
    "to `small-loss`": "small-loss",
    "to likeness of features": "controls:NearestTrusted",
    "to full training": "full",
    "to full training, twice the cost": "full",
}
CADENCE = {  # lines of the table of docs/cost.md
    "CIFAR-10, far from converged": "cifar10-underfit",
    "memorised": "cifar10-saturate",
    "30 % wrong labels": "cifar10-noise30",
    "40 % wrong labels by human hand": "cifar10n-worse",
    "long tail 50:1": "cifar10-long-tail",
    "60 % near-duplicates": "cifar10-duplicates",
    "Tiny-ImageNet, 170 classes": "tiny-imagenet",
    "SST-2": "sst2",
}
SINGLE_PASSES = {  # lines of the table of docs/streaming.md
    "50,000 images of CIFAR-10 (points of accuracy)": "cifar10-underfit",
    "24,576 sentences of SST-2 (points of accuracy)": "sst2",
    "GSM8K (nats a token: lower is better)": "gsm8k",
}
# Where a method's runs on a task are; no two of these suites have the same.
SUITES = ("trusted", "core", "held-out", "language", "foreign")
PROMPT_SUITES = [
    *(
        path.parent.name
        for path in RESULTS.glob("*/runs.jsonl")
        if '"prompt-agent"' in path.read_text()
    )
]
if not RESULTS.is_dir():
    pytest.skip("a source distribution holds no results", allow_module_level=True)

FIGURE = re.compile(r"([-+]?\d+\.\d+) \+- (\d+\.\d+)")
SPREAD = re.compile(r"([-+]?\d+\.\d+) \[([-+]?\d+\.\d+), ([-+]?\d+\.\d+)\]")


@cache
def results() -> Any:
    """The module that writes the pages of docs/results."""
    spec = importlib.util.spec_from_file_location("write_results", ROOT / "docs" / "results.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def measured():
    """By task, keep ratio and further metric: by suite and method, the values by seed."""
    found: Any = defaultdict(dict)
    for archive in sorted(RESULTS.glob("*/runs.jsonl")):
        for group in group_runs(find_runs(archive)[0]):
            for ratio in group.keep_ratios():
                for method, by_seed in group.at(ratio).items():
                    for name in {name for record in by_seed.values() for name in record.measured}:
                        task = group.name.partition(" (")[0], ratio, name
                        found[task][archive.parent.name, method] = {
                            seed: record.measured[name]["value"]
                            for seed, record in by_seed.items()
                            if name in record.measured
                        }
    return found


def runs_of(task, method, *suites):
    """The values by seed, in each of these suites that holds such runs."""
    task, _, suite = task.partition("@")
    suites = (suite,) if suite else suites
    cell = measured()[task, 0.5, ""]
    return [cell[suite, method] for suite in suites if (suite, method) in cell]


def values_of(task, method, *suites):
    (values,) = runs_of(task, method, *suites)
    return values


def tables_of(page):
    """The tables of a page, each as lists of cells; its links are their texts."""
    text = re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", page.read_text())
    for block in re.findall(r"(?:^\|.*\|\n)+", text, flags=re.MULTILINE):
        head, _, *rows = ([c.strip() for c in line[1:-1].split("|")] for line in block.splitlines())
        yield head, rows


def shown(value: Estimate, digits: int) -> str:
    text = format_estimate(value, sign=True, digits=digits)
    return f"**{text}**" if abs(value.mean) > value.half_width else text


def digits_of(text: str) -> int:
    return len(FIGURE.search(text)[2].partition(".")[2])


def test_the_pages_of_results_are_what_the_runs_make():
    pages = results().all_pages()
    assert {path.name for path in MADE.glob("*.md")} == {*pages}, "run make results"
    for name, text in pages.items():
        assert (MADE / name).read_text() == text, f"{name}: run make results"


def test_every_suite_is_compared_with_its_own_controls():
    report = results().report_on("agent-before")
    (cell,) = (c for t in report.tasks if t.name == "sst2" for c in t.cells)
    assert {row.method for row in cell.rows} == {"full", "full-short", "random", "data-agent"}
    mine = values_of("sst2", "data-agent", "agent-before")
    assert cell.row("data-agent").to_random == paired_difference(
        mine, values_of("sst2", "random", "agent-5374e66")
    )


@pytest.mark.parametrize("page", ROWS, ids=lambda page: page.name)
def test_tables_of_differences_are_those_of_the_runs(page):
    num_rows = 0
    for head, rows in tables_of(page):
        columns = [(i, CONTROLS[name]) for i, name in enumerate(head) if name in CONTROLS]
        is_trusted = page.name == "trusted.md"
        method = "data-agent" if is_trusted or "to `full-short`" in head else "label-aware"
        for row in rows:
            if not columns or row[0] not in TASKS:
                continue
            num_rows += 1
            task = TASKS[row[0]]
            name = row[head.index("method")].strip("`") if "method" in head else method
            mine = values_of(task, name, *SUITES)
            for column, control in columns:
                if row[column] == "not run":
                    assert not runs_of(task, control, *SUITES), (row[0], head[column])
                    continue
                found = paired_difference(mine, values_of(task, control, *SUITES))
                assert row[column] == shown(found, digits_of(row[column])), (row[0], head[column])
            if "to `random`, frozen" in head:
                frozen = values_of(task, name, "agent-39dc338")
                found = paired_difference(frozen, values_of(task, "random", "agent-5374e66"))
                assert row[head.index("to `random`, frozen")] == shown(found, 2), row[0]
    assert num_rows >= ROWS[page]


def test_the_table_of_what_trusted_rows_taught_is_that_of_the_runs():
    (table,) = (t for t in tables_of(ROOT / "docs" / "trusted.md") if "rows avoided, %" in t[0])
    found = defaultdict(list)
    for line in (RESULTS / "trusted" / "runs.jsonl").read_text().splitlines():
        run = json.loads(line)
        if run["configuration"]["method"] == "data-agent":
            found[run["configuration"]["task"]].append(run["evaluations"][-1]["selector"])
    assert len(table[1]) == 8
    for data, calibration, avoided in table[1]:
        assert len(found[TASKS[data]]) == 5
        slopes = [line["trusted_calibration"] for line in found[TASKS[data]]]
        shares = [100 * line["avoided_share"] for line in found[TASKS[data]]]
        assert calibration == f"{min(slopes):.2f} to {max(slopes):.2f}"
        ends = f"{min(shares):.0f}", f"{max(shares):.0f}"
        assert avoided == " to ".join(dict.fromkeys(ends))


def single_pass(task):
    """Of the agent inside batches to half of the stream, to what costs as much, and to all."""
    half, most = (measured()[task, ratio, ""] for ratio in (0.5, 0.83))
    controls = (half, "full-short"), (most, "full-short"), (half, "full")
    mine = half["single-pass", "data-agent-in-batch"]
    return [paired_difference(mine, cell["single-pass", name]) for cell, name in controls]


def test_the_table_of_single_passes_is_that_of_the_runs():
    page = ROOT / "docs" / "streaming.md"
    (table,) = (t for t in tables_of(page) if t[0][0] == "a single pass over")
    assert len(table[1]) == len(SINGLE_PASSES) == 3
    for name, *cells in table[1]:
        task = SINGLE_PASSES[name]
        assert cells == [
            shown(found, digits_of(cell))
            for cell, found in zip(cells, single_pass(task), strict=True)
        ]


def test_the_table_of_fewer_updates_is_that_of_the_runs():
    page, both = ROOT / "docs" / "cost.md", ("data-agent", "ablations:unbounded-updates")
    (table,) = (t for t in tables_of(page) if "accuracy, bounded to unbounded" in t[0])
    shares = defaultdict(list)
    for line in (RESULTS / "cadence" / "runs.jsonl").read_text().splitlines():
        run = json.loads(line)
        share = run["result"]["overhead_seconds"] / run["result"]["train_seconds"]
        shares[run["configuration"]["task"], run["configuration"]["method"]].append(share)
    assert len(table[1]) == len(CADENCE) == 8
    for name, difference, *choosing in table[1]:
        task = CADENCE[name]
        found = paired_difference(*(values_of(task, method, "cadence") for method in both))
        assert difference == shown(found, 2), name
        means = [100 * sum(s) / len(s) for s in (shares[task, method] for method in both)]
        assert [re.match(r"\d+ %", text)[0] for text in choosing] == [f"{m:.0f} %" for m in means]


def test_the_table_of_detectors_is_that_of_the_runs():
    (table,) = (t for t in tables_of(ROOT / "docs" / "comparing-detection.md") if "mAP" in t[0])
    assert len(table[1]) == 6
    for name, value, to_full, to_random, cost in table[1]:
        mine = values_of("bccd", name.strip("`"), "detection")
        assert value == format_estimate(estimate([*mine.values()]))
        for text, control in ((to_full, "full"), (to_random, "random")):
            found = paired_difference(mine, values_of("bccd", control, "detection"))
            assert text == ("" if name == f"`{control}`" else shown(found, 2))
        (task,) = results().report_on("detection").tasks
        assert cost == f"{100 * task.cells[0].row(name.strip('`')).cost:.1f}"


def test_the_table_of_all_methods_is_that_of_the_runs():
    (table,) = (t for t in tables_of(WHEN) if t[0] == ["method", "to `random`", "mean rank"])
    over = results().report_on("core").over_tasks[0]
    found = {one.method: one for one in over.methods}
    assert len(table[1]) == len(found)
    for name, to_random, rank in table[1]:
        one = found[name.split("`")[1]]
        assert to_random == (format_spread(one.to_random) if one.to_random else "")
        assert rank == (f"{one.rank:.2f}" if one.rank else "")


@cache
def stored_figures():
    """`mean +- half-width` and `mean [low, high]` of all that the runs and files of results say."""
    estimates, means = [], defaultdict(list)
    for (_, ratio, name), cell in sorted(measured().items()):
        estimates += [estimate([*values.values()]) for values in cell.values()]
        for (one, values), (other, reference) in permutations(cell.items(), 2):
            if (found := paired_difference(values, reference)) is not None:
                estimates.append(found)
                means[one, other, ratio, name].append(found.mean)
    estimates += [
        e for path in RESULTS.glob("*.json") for e in estimates_in(json.loads(path.read_text()))
    ]
    estimates += chain.from_iterable(map(single_pass, SINGLE_PASSES.values()))
    for suite in PROMPT_SUITES:  # what choosing saved is in the report, and in no run
        saved = defaultdict(list)
        for row in (r for t in results().report_on(suite).tasks for c in t.cells for r in c.rows):
            for name, metric in row.other_metrics.items():
                estimates.append(metric.value)
                saved[suite, row.method, name].append(metric.value.mean)
        means |= saved
    figures = {
        (f"{abs(e.mean):.{digits}f}", f"{e.half_width:.{digits}f}")
        for e in estimates
        if e.half_width is not None
        for digits in (1, 2, 3, 4)
    }
    spreads = [mean_over_tasks(values) for values in means.values() if len(values) > 2]
    return figures | {
        tuple(f"{v:.{digits}f}".lstrip("-") for v in (s.mean, *(s.interval or ())))
        for s in spreads
        for digits in (2, 3)
    }


def estimates_in(content):
    """Every estimate in a file, however deep."""
    if isinstance(content, dict) and {"mean", "half_width"} <= content.keys():
        yield Estimate(content["mean"], content["half_width"], 0)
    elif isinstance(content, dict | list):
        for inner in content.values() if isinstance(content, dict) else content:
            yield from estimates_in(inner)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_no_figure_stands_without_its_runs(page):
    text = page.read_text()
    told = [m.groups() for pattern in (FIGURE, SPREAD) for m in pattern.finditer(text)]
    figures = [tuple(number.lstrip("+-") for number in one) for one in told]
    assert [one for one in figures if one not in stored_figures()] == []


def test_the_tables_of_what_each_part_brings_are_those_of_the_runs():
    tasks = ("cifar10-long-tail", "cifar10-noise30", "cifar10-saturate")
    tables = [t for t in tables_of(ROOT / "docs" / "ablations.md") if t[0][0] == "part"]
    assert [len(rows) for _, rows in tables] == [5, 12]
    for whole, (_, rows) in zip(("label-aware", "data-agent"), tables, strict=True):
        for part, *cells in rows:
            found = re.search(r"\(`([\w-]+)`\)", part)
            other = ("ablations", f"ablations:{found[1]}") if found else ("core", "random")
            for task, cell in zip(tasks, cells[:3], strict=True):
                without = values_of(task, other[1], other[0])
                difference = paired_difference(values_of(task, whole, "core"), without)
                assert cell == shown(difference, 2), (part, task)


def test_the_table_of_operations_is_what_was_counted():
    (table,) = (t for t in tables_of(ROOT / "docs" / "cost.md") if t[0][0] == "a step of")
    cases = json.loads((RESULTS / "operations.json").read_text())["cases"]
    assert len(table[1]) == len(cases)
    for row, counted in zip(table[1], cases.values(), strict=True):
        shown = [row[column].partition(",")[0] for column in (2, 4, 5)]
        exact = [counted[what] for what in ("operations", "calls", "kernels")]
        digits = (1, 0, 1)
        assert shown == [f"{value:.{n}f}" for value, n in zip(exact, digits, strict=True)], row[0]


def test_the_laws_of_peers_are_ours_and_ours_keep_them():
    rows = json.loads((RESULTS / "peers.json").read_text())["laws"]
    assert {row["law"] for row in rows} == {*LAWS, "(no law) leaves others alone"}
    for row in rows:
        kept = [row[who] for who in row if who.startswith("ours")]
        assert kept == ["kept"] * 3 or row["law"] not in LAWS
