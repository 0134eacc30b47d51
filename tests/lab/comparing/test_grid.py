from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from data_agent import DataAgentError
from data_agent_lab.comparing.grid import all_runs, parse_keep_ratios, parse_names, parse_seeds
from data_agent_lab.recipes import RunConfig
from data_agent_lab.tasks import recipe_for

RECIPES = [replace(recipe_for("digits"), task=task) for task in ("a", "b")]


def grid(**changes: Any) -> list[RunConfig[Any]]:
    plain = {
        "recipes": RECIPES,
        "methods": ["full", "random"],
        "keep_ratios": [0.5, 0.3],
        "seeds": [0, 7],
    }
    return all_runs(**{**plain, **changes})


def test_runs_go_by_seed_then_task_then_budget_and_full_runs_once() -> None:
    assert [run.name for run in grid()] == [
        "a/full-seed0",
        "a/random-keep0.5-seed0",
        "a/random-keep0.3-seed0",
        "b/full-seed0",
        "b/random-keep0.5-seed0",
        "b/random-keep0.3-seed0",
        "a/full-seed7",
        "a/random-keep0.5-seed7",
        "a/random-keep0.3-seed7",
        "b/full-seed7",
        "b/random-keep0.5-seed7",
        "b/random-keep0.3-seed7",
    ]


def test_runs_have_the_recipe_of_their_task_and_their_own_budget() -> None:
    full, half, third = grid(seeds=[3])[:3]
    assert (full.recipe.task, full.keep_ratio, full.seed) == ("a", 1.0, 3)
    assert (half.keep_ratio, third.keep_ratio) == (0.5, 0.3)


def test_a_method_whose_cost_is_its_own_runs_once_and_full_short_for_each_budget() -> None:
    runs = grid(recipes=RECIPES[:1], methods=["infobatch-published", "full-short"])
    assert [run.name for run in runs][:3] == [
        "a/infobatch-published-seed0",
        "a/full-short-keep0.5-seed0",
        "a/full-short-keep0.3-seed0",
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": []}, "--methods is empty"),
        ({"methods": ["full", "full"]}, "--methods names 'full' twice"),
        ({"methods": ["full", "x"]}, "'x' is unknown"),
        ({"keep_ratios": []}, "--keep-ratios is empty"),
        ({"keep_ratios": [0.5, 0.5]}, "--keep-ratios names 0.5 twice"),
        ({"keep_ratios": [1.5]}, r"--keep-ratios names 1.5; expected shares .* \(0, 1\]"),
        ({"keep_ratios": [float("nan")]}, "--keep-ratios names nan"),
        ({"seeds": []}, "--seeds is empty"),
        ({"seeds": [0, 3, 3]}, "--seeds names 3 twice"),
        ({"seeds": [-1]}, "--seeds names -1"),
    ],
)
def test_what_cannot_be_compared_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataAgentError, match=message):
        grid(**changes)


def test_lists_on_the_command_line() -> None:
    assert parse_names("full, random,,x") == ["full", "random", "x"]
    assert parse_keep_ratios("0.5, 0.3") == [0.5, 0.3]
    assert parse_seeds("5") == [0, 1, 2, 3, 4]
    assert parse_seeds("0,3,7") == [0, 3, 7]
    assert parse_seeds("3,") == [3]


@pytest.mark.parametrize("text", ["0", "-2", "", "x", "1.5", "1,x"])
def test_seeds_that_are_no_numbers_are_refused(text: str) -> None:
    with pytest.raises(DataAgentError, match=f"--seeds is '{text}'; expected a count"):
        parse_seeds(text)


def test_keep_ratios_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(DataAgentError, match=r"--keep-ratios is '0\.5;0\.3'; expected shares"):
        parse_keep_ratios("0.5;0.3")
