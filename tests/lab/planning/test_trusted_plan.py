"""With trusted rows a plan is what the run then is, and what a run refuses is refused."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from shapes import shapes

from data_agent import DataAgentError
from data_agent.runtime import checkpoint
from data_agent_lab.cli import main
from data_agent_lab.data.image_data import with_trusted
from data_agent_lab.planning.pilot import COST, shortened
from data_agent_lab.planning.plan import RunPlan, bytes_in, plan_of
from data_agent_lab.planning.words import in_words
from data_agent_lab.recipes import RunConfig
from data_agent_lab.runs.folder import open_run
from data_agent_lab.tasks import load_task, recipe_for
from data_agent_lab.training.plan import num_trusted_of
from data_agent_lab.training.run import train_run

DIGITS = replace(recipe_for("digits"), epochs=8, num_evaluations=1, device="cpu")


@pytest.fixture(scope="module")
def own() -> Any:
    """The digits."""
    return load_task(DIGITS)


@pytest.fixture(scope="module")
def joined(own: Any) -> Any:
    """The digits, and trusted samples of a data set of their own behind them."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (64, *own.train_images.shape[1:]), generator=generator)
    return with_trusted(own, images.to(torch.uint8), torch.arange(64) % 10)


def config(method: str, keep_ratio: float = 0.5, **changes: Any) -> RunConfig[Any]:
    return RunConfig(recipe=replace(DIGITS, **changes), method=method, keep_ratio=keep_ratio)


def trained(run: RunConfig[Any], data: Any, path: Path) -> tuple[dict[str, Any], list[Any]]:
    """The result of a run, and its metrics line by line."""
    with open_run(path / "run", run.flat(), resume=False) as folder:
        result = train_run(run, data, folder)
        assert result is not None
        return result, folder.metrics()


def sizes_of(plan: RunPlan) -> list[tuple[int, int | None]]:
    """By epoch how many samples it has, and how many of them are trusted; None in a first pass."""
    return [
        (
            phase.num_trusted + phase.num_unselected + phase.num_explored + phase.num_selected,
            None if phase.name == "first pass" else phase.num_trusted,
        )
        for phase in plan.phases
        for _ in range(phase.first, phase.last + 1)
    ]


@pytest.mark.parametrize(
    ("method", "is_joined"),
    [
        ("data-agent", False),
        ("data-agent", True),
        ("random", False),
        ("random", True),
        ("full-short", True),
        ("label-aware", False),
        ("infobatch", False),
        ("static-random", False),
    ],
)
def test_a_run_is_what_its_plan_says(
    method: str, is_joined: bool, own: Any, joined: Any, tmp_path: Path
) -> None:
    data = joined if is_joined else own
    run = config(method, trusted_rows=0 if is_joined else 40)
    plan = plan_of(run, data)
    result, lines = trained(run, data, tmp_path)
    assert plan.num_samples == result["num_train_samples"] == (512 if is_joined else 448)
    assert plan.num_trusted == result["num_trusted_rows"] == (64 if is_joined else 40)
    assert plan.num_steps == result["num_steps"]
    assert plan.cost == pytest.approx(result["cost"], abs=0.005)
    visits = [0, *(line["num_forward"] for line in lines)]
    planned = sizes_of(plan)
    assert [after - before for before, after in pairwise(visits)] == [size for size, _ in planned]
    in_first_pass = 0
    for line, (size, num_trusted) in zip(lines, planned, strict=True):
        found = round(line["visited"]["trusted"] * size)
        if num_trusted is None:
            in_first_pass += found
        else:
            assert found == num_trusted == plan.num_trusted
    assert in_first_pass == (plan.num_trusted if plan.phases[0].name == "first pass" else 0)
    assert (plan.phases[-1].num_selected > 0) == (result["schedule"] in ("to-the-end", "static"))
    saved = checkpoint.load(tmp_path / "run" / "checkpoint.safetensors")["selector"]
    assert plan.kept is not None
    kept = plan.kept.sample * plan.num_samples + plan.kept.fixed
    assert 0.67 * kept < bytes_in(saved) < 1.5 * kept


def test_what_trusted_rows_teach_is_smaller_than_a_policy(own: Any) -> None:
    plans = [plan_of(config("data-agent", trusted_rows=count), own) for count in (0, 40)]
    (plain, trusted) = [plan.kept for plan in plans if plan.kept is not None]
    assert trusted.fixed < plain.fixed / 2
    assert 46 <= trusted.sample <= 80  # of the table's 44, the likeness and the running epoch's


def test_phases_say_that_trusted_rows_are_always_in(own: Any) -> None:
    def said(method: str) -> str:
        return "\n".join(in_words(plan_of(config(method, trusted_rows=40), own), None))

    text = said("data-agent")
    assert text.startswith("data-agent on 448 training samples of 10 classes, 40 of them trusted: ")
    assert "  first pass, 1-2: 224 of all samples in turn\n" in text
    assert "  selection, 3-7: 40 trusted, 22 drawn uniformly, at least 162 chosen\n" in text
    assert "  final phase, epoch 8: 40 trusted, 184 chosen\n" in text
    assert "  all alike, 1-8: 40 trusted, 184 of all other samples in turn\n" in said("random")
    assert "  final phase, epoch 8: 40 trusted, 184 of all other samples in" in said("infobatch")
    assert "  selection, 1-8: 40 trusted, 184 chosen\n" in said("el2n")


@pytest.mark.parametrize(
    ("run", "text"),
    [
        (config("data-agent", trusted_rows=200), "200 rows are trusted, more than half"),
        (config("random", 0.1, trusted_rows=40), "40 rows are trusted, more than half"),
        (config("class-balanced-random", trusted_rows=200), "200 rows are trusted, more than half"),
        (config("full", trusted_rows=300), "--trusted-rows is 300; half of each class"),
        (config("infobatch-published", trusted_rows=40), "a floating schedule has no room"),
        (config("selective-backprop", trusted_rows=40), "chooses inside each batch"),
    ],
)
def test_what_a_run_refuses_its_plan_refuses_in_the_same_words(
    run: RunConfig[Any], text: str, own: Any, tmp_path: Path
) -> None:
    with pytest.raises(DataAgentError, match=text) as planned:
        plan_of(run, own)
    with pytest.raises(DataAgentError, match=text) as refused:
        trained(run, own, tmp_path)
    assert str(planned.value) == str(refused.value)


def test_a_pilot_has_its_share_of_the_trusted_rows(joined: Any) -> None:
    run = replace(DIGITS, epochs=60)
    recipe, part = shortened(run, joined, keep_ratio=0.5, runs=8)
    visits = 8 * 0.5 * part.num_train * recipe.epochs
    assert visits == pytest.approx(COST * joined.num_train * 60, rel=0.05)
    assert part.num_trusted == 64 * part.num_train // 512
    is_own = (part.train_images[-part.num_trusted :, None] == joined.train_images[-64:]).flatten(2)
    assert is_own.all(2).any(1).all()  # pictures of digits are no noise
    plan_of(RunConfig(recipe=recipe, method="random"), part)  # is not refused
    _, whole = shortened(replace(run, epochs=400), joined, keep_ratio=0.5, runs=8)
    assert (whole.num_train, whole.num_trusted) == (512, 64)


def test_trusted_images_with_boxes_are_counted() -> None:
    recipe = replace(recipe_for("detection"), trusted_rows=4, device="cpu")
    plan = plan_of(RunConfig(recipe=recipe, method="data-agent"), shapes(40, 4))
    assert plan.num_trusted == 4
    assert plan.phases[-1].num_trusted == 4
    own = replace(shapes(40, 4), num_trusted=6)
    assert num_trusted_of(own, replace(recipe, trusted_rows=0)) == 6


def test_the_command_refuses_too_many(capsys: pytest.CaptureFixture[str]) -> None:
    line = ["plan", "--task", "digits", "--no-time", "--trusted-rows", "200"]
    assert main(line) == 2
    assert "200 rows are trusted, more than half of an epoch" in capsys.readouterr().err
