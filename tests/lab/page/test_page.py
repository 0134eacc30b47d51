"""The page of runs: its parts, its numbers, its size, and what hostile data make of it."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from typing import Any

import pytest
from page_runs import VALUES, Page, check_loads_nothing, group, page, record, report

from data_agent_lab.page.styles import styles_of
from data_agent_lab.page.tables import typeset
from data_agent_lab.page.writing import write_page
from data_agent_lab.results.groups import Group
from data_agent_lab.results.statistics import Estimate
from data_agent_lab.results.tables import format_estimate, tables_over_tasks

CLASSES = {"cat": 95.0, "dog": 85.0}
HOSTILE = "</script><img src=x onerror=alert(1)>\"'&<b>"


def titles(text: str) -> list[str]:
    return re.findall(r"<figcaption><b>(.*?)</b>", text)


def test_a_comparison_has_its_verdict_charts_tables_and_origin() -> None:
    text = page(group(classes=CLASSES))
    found = Page(text)
    assert titles(text) == [
        *("Where methods end", "Quality against cost"),
        *("Learning against visits", "Learning against time"),
        *("Wrong labels trained on", "Classes trained on", "Actions", "Price of a visit"),
        "Accuracy by class",
    ]
    said = " ".join(found.texts).replace("\N{NO-BREAK SPACE}", " ")
    # differences are alike in all seeds: 92 - 91, - 89 and - 88, without any spread
    assert "data-agent ends at accuracy 92.1 %: 1.0 ± 0.0 points above full training" in said
    assert "Selecting pays here. " in found.texts or "Selecting pays here." in found.texts
    assert "3 seeds: a first sign; 5 are a claim." in said
    assert "data-agent compare" in said
    assert found.count("svg", role="img") == 9
    assert all(e.get("aria-label") for n, e in found.elements if n == "svg" and "role" in e)


def test_the_tables_say_what_the_json_says(tmp_path: Any) -> None:
    """Every estimate of comparison.json stands in its row, in the terminal's digits."""
    made = group(classes=CLASSES)
    numbers = asdict(report(made))
    table, *_ = Page(page(made)).tables
    rows = numbers["tasks"][0]["cells"][0]["rows"]
    assert [cells[0] for cells in table[1:]] == [row["method"] for row in rows]
    for cells, row in zip(table[1:], rows, strict=True):
        for place, name in enumerate(("value", "to_full", "to_full_short", "to_random"), start=1):
            estimate = None if row[name] is None else Estimate(**row[name])
            assert cells[place] == typeset(format_estimate(estimate, sign=place > 1))
        assert float(cells[5]) == pytest.approx(100 * row["cost"], abs=0.05)
    write_page(report(made), [made], tmp_path)
    embedded = json.loads(Page((tmp_path / "report.html").read_text()).scripts["numbers"])
    for task in numbers["tasks"]:
        for row in task["cells"][0]["rows"][:3]:
            row["classes"] = {}  # only those of the method that the verdict is about are embedded
    assert same(embedded, numbers)


def same(found: Any, expected: Any) -> bool:
    """Equal to six digits."""
    if isinstance(expected, dict):
        names = {str(name) for name in expected}
        return set(found) == names and all(same(found[str(n)], v) for n, v in expected.items())
    if isinstance(expected, list | tuple):
        return len(found) == len(expected) and all(map(same, found, expected))
    return found == (pytest.approx(expected, rel=1e-5) if isinstance(expected, float) else expected)


def test_the_page_asks_for_nothing_and_runs_its_own_script_alone() -> None:
    text = page(group(classes=CLASSES), group(task="other"))
    check_loads_nothing(text)


def test_hostile_names_stay_texts() -> None:
    values = {"full": 91.0, "random": 88.0, HOSTILE: 92.0}
    made = group(
        values,
        task=f"task {HOSTILE}",
        model=HOSTILE,
        command=f"data-agent {HOSTILE}",
        classes={HOSTILE: 90.0, "dog": 80.0},
    )
    text = page(made, group(values, task="other"))
    plain = Page(page(group(classes=CLASSES), group(task="other")))
    found = Page(text)
    assert "<img" not in text
    assert {name for name, _ in found.elements} == {name for name, _ in plain.elements}
    assert {n for _, a in found.elements for n in a} == {n for _, a in plain.elements for n in a}
    assert HOSTILE in found.texts
    assert (
        json.loads(found.scripts["numbers"])["tasks"][1]["cells"][0]["rows"][2]["method"] == HOSTILE
    )
    assert len(found.scripts) == 2


def test_a_run_alone_says_what_is_missing() -> None:
    alone = record("data-agent", 0, value=90.0, classes=CLASSES)
    config = {
        k: v for k, v in alone.configuration.items() if k not in ("method", "seed", "keep_ratio")
    }
    text = page(Group(name="digits", config=config, records=[alone]))
    assert "nothing at the same cost was trained beside it" in text
    assert "One seed: no claim." in text
    assert titles(text)[:2] == ["Learning against visits", "Learning against time"]
    assert titles(text)[-1] == "Accuracy by class"
    assert "cat: +5.0 points" in text  # 95 of a mean of 90


def test_controls_alone_have_no_verdict() -> None:
    text = page(group({"full": 90.0, "random": 89.0}))
    assert "full ends at accuracy 90.10\N{NO-BREAK SPACE}%." in text
    assert "badge" not in text.split("</style>")[1]


def test_several_tasks_have_an_overview_and_one_chart_of_costs_each() -> None:
    text = page(group(task="a", keep_ratios=(0.5, 0.25)), group(task="b"))
    found = Page(text)
    links = [a["href"] for n, a in found.elements if n == "a"]
    assert links == ["#task0", "#task0", "#task1"]
    ids = [a["id"] for n, a in found.elements if n == "section" and "id" in a]
    assert ids == ["task0", "task1"]
    assert titles(text).count("Quality against cost") == 2
    assert titles(text).count("Where methods end") == 3


def test_the_page_of_a_large_suite_is_small() -> None:
    """As large as the largest of ours, with more classes and evaluations than it had."""
    others = (
        "infobatch",
        "seta",
        "rcap",
        "el2n",
        "entropy",
        "ucb",
        "top-loss",
        "small-loss",
        "divbs",
    )
    values = {**VALUES, **dict.fromkeys(others, 89.5)}
    classes = {f"class {number}": 80.0 + number / 10 for number in range(100)}
    options = {"seeds": range(5), "classes": classes, "num_evaluations": 10}
    groups = [
        group(values, task=f"task-number-{n}", keep_ratios=(0.5, 0.3)[: 1 + n % 2], **options)
        for n in range(7)
    ]
    text = page(*groups)
    assert len(text.encode()) < 300_000
    assert "An outline." in text


def test_methods_keep_their_style_and_no_two_share_it() -> None:
    names = ["random", "zeta", "data-agent", "full", "alpha", "full-short", *map(str, range(26))]
    styles = styles_of(names)
    assert styles["data-agent"].colour == "c0"
    assert [styles[c].colour for c in ("full", "full-short", "random")] == ["k0", "k1", "k2"]
    assert len({(style.colour, style.shape) for style in styles.values()}) == len(names)
    assert len({style.number for style in styles.values()}) == len(names)


def prompt_group(task: str = "string-world") -> Group:
    """Two methods on prompts, of which the second solves more with fewer groups without spread."""
    made = group({"random": 60.0, "prompt-agent": 64.0}, task=task)
    for run in made.records:
        is_agent = run.budget[0] == "prompt-agent"
        for place, line in enumerate(run.evaluations, start=1):
            line |= {
                **{"completions": 100.0 * place, "generated_tokens": 500.0 * place},
                **{"train_cpu_seconds": 8.0 * place, "greedy": line["value"] + 2},
                "selector": {"informative_so_far": 0.6 if is_agent else 0.5},
            }
    return made


def test_prompts_are_drawn_over_what_was_paid_drawn_and_greedily() -> None:
    text = page(prompt_group())
    learning = [title for title in titles(text) if title.startswith("Learning")]
    over = ("completions", "tokens", "time")
    assert learning == [
        *(f"Learning against {name}" for name in over),
        *(f"Learning against {name}, greedy" for name in over),
    ]
    assert "groups without spread" in text


def test_what_choosing_prompts_paid_is_averaged_over_tasks() -> None:
    made = [prompt_group(task) for task in ("a", "b", "c")]
    *_, paid = tables_over_tasks(report(*made))
    assert paid.title == "Over 3 tasks, what choosing prompts paid"
    rows = {row[0]: dict(zip(paid.columns, row, strict=True)) for row in paid.rows}
    # random ends with 58, 59, 60: level 59, after 3 of 4 evaluations; the agent's first one has 61.
    completions, groups = paid.columns[1], paid.columns[-2]
    assert rows["random"][completions] == "0.750 [0.750, 0.750]"
    assert rows["prompt-agent"][completions] == "0.250 [0.250, 0.250]"
    assert rows["prompt-agent"][groups] == "0.800 [0.800, 0.800]"
    assert rows["prompt-agent"]["tasks"] == "3"
    assert len(tables_over_tasks(report(made[0]))) == 0
