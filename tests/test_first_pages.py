"""What a newcomer reads first is true: its code runs, its tables are those of the library."""

import re
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from data_agent import DataAgent, DataAgentConfig, SelectionSchedule
from data_agent.budget.schedule import ScheduleKind
from data_agent.errors import InputError
from data_agent.labels import LabelRules

DOCS = Path(__file__).parents[1] / "docs"
START = DOCS / "start"


def code_of(page):
    text = (START / page).read_text()
    return "\n".join(re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL))


def test_the_program_of_the_first_five_minutes(capsys):
    names: dict[str, Any] = {}
    exec(code_of("quickstart.md"), names)
    assert names["agent"].visits == 10_000
    said = capsys.readouterr().out
    assert "10,000 visits = 50.0% of a full run" in said
    assert "policy, rewarded by difficulty and uncertainty" in said


def test_what_one_has_decides_what_runs():
    names: dict[str, Any] = {"train_set": range(1000), "rows": range(50)}
    draws = torch.Generator().manual_seed(0)
    names["images"] = torch.randint(256, (1000, 3, 8, 8), dtype=torch.uint8, generator=draws)
    exec(code_of("what-do-you-have.md"), names)
    assert names["with_trusted"].describe().startswith("trusted examples (50 rows)")
    assert names["with_labels"].describe().startswith("label rules: equal class shares")
    assert names["among_junk"].describe().startswith("noise rate of labels")
    assert names["with_neither"].describe().startswith("policy, rewarded by difficulty")
    assert names["control"].name == "random"
    assert names["without_copies"].name == "spread-over-duplicates"
    assert names["stream"].name == "data-agent-in-batch"
    assert names["prompts"].name == "prompt-agent"


def test_trusted_rows_and_label_rules_are_refused_together():
    rules = DataAgentConfig(label_rules=LabelRules())
    with pytest.raises(InputError, match="with trusted rows a TrustedConfig"):
        DataAgent(num_samples=1000, epochs=20, trusted=range(50), config=rules)


@pytest.mark.parametrize(
    ("num_samples", "keep_ratio", "kept"), [(1001, 0.5, 501), (5, 0.5, 3), (9, 0.3, 3), (3, 0.1, 1)]
)
def test_halves_are_rounded_up(num_samples, keep_ratio, kept):
    assert DataAgent(num_samples, 20, keep_ratio=keep_ratio).schedule.num_kept == kept


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
