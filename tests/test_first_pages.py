"""What a newcomer reads first is true: its code runs, its tables are those of the library."""

import re
from pathlib import Path
from typing import Any, get_args

import pytest

from data_agent import SelectionSchedule
from data_agent.budget.schedule import ScheduleKind

DOCS = Path(__file__).parents[1] / "docs"
START = DOCS / "start"


def code_of(page):
    (block,) = re.findall(r"```python\n(.*?)```", (START / page).read_text(), flags=re.DOTALL)
    return block


def test_the_program_of_the_first_five_minutes(capsys):
    names: dict[str, Any] = {}
    exec(code_of("quickstart.md"), names)
    assert names["agent"].visits == 10_000
    said = capsys.readouterr().out
    assert "10,000 visits = 50.0% of a full run" in said
    assert "policy, rewarded by difficulty and uncertainty" in said


def test_what_one_has_decides_what_runs():
    names: dict[str, Any] = {"train_set": range(1000), "rows": range(50)}
    exec(code_of("what-do-you-have.md"), names)
    assert names["with_trusted"].describe().startswith("trusted examples (50 rows)")
    assert names["with_labels"].describe().startswith("label rules: equal class shares")
    assert names["with_neither"].describe().startswith("policy, rewarded by difficulty")
    assert names["control"].name == "random"
    assert names["stream"].name == "data-agent-in-batch"


ROW = re.compile(r"^\| (\d+) \| (0\.\d) \| (\d+) \| (\d+) \| (\d+) \|$", flags=re.MULTILINE)


@pytest.mark.parametrize("row", ROW.findall((START / "keep-ratio.md").read_text()))
def test_the_phases_of_the_page_on_keep_ratios(row):
    epochs, keep_ratio, *counts = row
    run = {"num_samples": 50_000, "epochs": int(epochs), "keep_ratio": float(keep_ratio)}
    schedule = SelectionSchedule(**run, explore=0.1)
    phases = [schedule.plan(epoch).phase for epoch in range(int(epochs))]
    assert [phases.count(name) for name in ("warm-up", "selected", "final")] == [*map(int, counts)]


def test_the_schedule_of_the_page_on_keep_ratios():
    names: dict[str, Any] = {}
    exec(code_of("keep-ratio.md"), names)
    assert names["phases"] == {"warm-up": 2, "selected": 16, "final": 2}


def test_the_page_on_the_budget_names_every_schedule():
    text = (DOCS / "concepts" / "budget.md").read_text()
    named = re.findall(r"^\| `([\w-]+)` \|", text, flags=re.MULTILINE)
    assert set(named) == {*get_args(ScheduleKind)}
