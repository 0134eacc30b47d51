from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from data_agent import DataAgentError
from data_agent_lab.tasks import SUITES, TASKS, recipe_for, suite_recipes


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("cifar10", "cifar10n", "tiny_imagenet_32", "sst2"):
        (tmp_path / name).mkdir()
    return tmp_path


def test_suites_hold_tasks_that_exist_and_quick_is_part_of_core() -> None:
    assert set(SUITES["quick"]) < set(SUITES["core"])
    assert set().union(*SUITES.values()) < set(TASKS)
    assert not set(SUITES["held-out"]) & (set(SUITES["core"]) | set(SUITES["language"]))
    assert set(SUITES["core"]) & set(SUITES["language"]) == {"sst2"}
    others = [names for suite, names in SUITES.items() if suite != "held-out-trusted"]
    assert not set(SUITES["held-out-trusted"]) & set().union(*others)
    assert len(SUITES["quick"]) == 3


def test_recipes_are_named_by_their_task_and_find_their_data_under_the_root(root: Path) -> None:
    recipes: list[Any] = suite_recipes("core", root=root)
    assert [recipe.task for recipe in recipes] == list(SUITES["core"])
    assert recipes[0].data == str(root / "cifar10")
    worse = recipes[SUITES["core"].index("cifar10n-worse")].train_labels
    assert worse == f"{root / 'cifar10n' / 'train.parquet'}:worse_label"


def test_a_task_of_the_suite_is_a_task_like_any_other() -> None:
    assert recipe_for("cifar10-noise30").label_noise == 0.3


def test_tasks_narrow_a_suite_or_come_from_all(root: Path) -> None:
    for suite, task in (("quick", "cifar10-noise30"), (None, "tiny-imagenet")):
        assert [r.task for r in suite_recipes(suite, tasks=[task], root=root)] == [task]


@pytest.mark.parametrize(
    ("suite", "tasks", "message"),
    [
        ("huge", None, r"suite 'huge' is unknown; expected one of quick, core, held-out"),
        ("quick", ["tiny-imagenet"], r"suite 'quick': task 'tiny-imagenet' is unknown; .* cifar10"),
        (None, ["svhn"], r"task 'svhn' is unknown; expected one of cifar10-underfit"),
        ("core", ["tiny-imagenet"] * 2, r"--tasks names 'tiny-imagenet' twice"),
    ],
)
def test_unknown_names_are_answered_with_those_there_are(
    root: Path, suite: str | None, tasks: list[str] | None, message: str
) -> None:
    with pytest.raises(DataAgentError, match=message):
        suite_recipes(suite, tasks=tasks, root=root)


@pytest.mark.parametrize(
    ("missing", "task"), [("cifar10n", "cifar10n-worse"), ("tiny_imagenet_32", "tiny-imagenet")]
)
def test_missing_data_are_named_with_the_task_that_needs_them(
    root: Path, missing: str, task: str
) -> None:
    (root / missing).rmdir()
    with pytest.raises(DataAgentError, match=rf"task {task} needs the folder .*{missing}"):
        suite_recipes("core", root=root)


def test_the_page_on_data_names_every_folder_and_the_suites_that_read_it() -> None:
    page = (Path(__file__).parents[2] / "docs" / "compare" / "data.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \|.*\| ([^|]*) \|$", page, flags=re.MULTILINE)
    told = {folder: set(re.findall(r"`([\w-]+)`", suites)) for folder, suites in rows}
    read: dict[str, set[str]] = {}
    for suite in SUITES.keys() - {"quick"}:  # which is of core
        for recipe in (TASKS[task] for task in SUITES[suite]):
            for name in ("data", "train_labels", "foreign_data"):
                for path in (getattr(recipe, name, None) or "").split(","):
                    if path:
                        read.setdefault(Path(path).parts[1], set()).add(suite)
    assert told == read
