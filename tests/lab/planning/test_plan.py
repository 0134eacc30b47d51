"""A plan is what the run then is: steps, cost and memory; a pilot is short and says its cost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shapes import shapes

from data_agent import DataAgentError
from data_agent.runtime import checkpoint
from data_agent_lab.cli import main
from data_agent_lab.planning.pilot import COST, shortened
from data_agent_lab.planning.plan import bytes_in, plan_of
from data_agent_lab.planning.words import in_words
from data_agent_lab.recipes import RunConfig
from data_agent_lab.runs.folder import open_run
from data_agent_lab.runs.samples import write_columns
from data_agent_lab.tasks import load_task, recipe_for
from data_agent_lab.training.run import train_run

DIGITS = replace(recipe_for("digits"), epochs=16, num_evaluations=1, device="cpu")


@pytest.fixture(scope="module")
def data() -> Any:
    return load_task(DIGITS)


def config(method: str = "data-agent", keep_ratio: float = 0.5, **changes: Any) -> RunConfig[Any]:
    return RunConfig(recipe=replace(DIGITS, **changes), method=method, keep_ratio=keep_ratio)


def said(run: RunConfig[Any], data: Any) -> str:
    return "\n".join(in_words(plan_of(run, data), None))


@pytest.mark.parametrize("method", ["data-agent", "afss"])
def test_images_with_boxes_have_no_classes_to_plan_by(method: str) -> None:
    run = RunConfig(recipe=replace(recipe_for("detection"), device="cpu"), method=method)
    plan = plan_of(run, shapes(40, 4))
    assert (plan.facts.num_classes, plan.num_samples) == (0, 40)
    assert plan.num_steps == 40 * 3  # batches of 8 in an epoch's 20 samples
    assert plan.kept is not None
    with pytest.raises(DataAgentError, match="here an image has boxes"):
        plan_of(replace(run, method="label-aware"), shapes(40, 4))
    with pytest.raises(DataAgentError, match="--task detection alone"):
        plan_of(config("afss"), load_task(DIGITS))


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("data-agent", {"accumulation": 3}),
        ("label-aware", {}),
        ("full-short", {"batch_size": 48}),
        ("full-short", {"batch_size": 48, "epochs": 3, "accumulation": 2}),
        ("random", {"keep_ratio": 0.501}),
        ("selective-backprop", {}),
    ],
)
def test_a_run_is_what_its_plan_says(
    method: str, changes: dict[str, Any], data: Any, tmp_path: Path
) -> None:
    run = config(method, **changes)
    plan = plan_of(run, data)
    with open_run(tmp_path / "run", run.flat(), resume=False) as folder:
        result = train_run(run, data, folder)
    assert result is not None
    assert plan.num_steps == result["num_steps"]
    is_exact = method != "selective-backprop"  # whose pools are of whole samples
    assert plan.cost == pytest.approx(result["cost"], abs=1e-9 if is_exact else 0.005)
    visits = round(plan.cost * plan.num_samples * run.recipe.epochs)
    assert not is_exact or visits == result["num_backward"]
    assert not plan.is_bound
    saved = checkpoint.load(tmp_path / "run" / "checkpoint.safetensors")["selector"]
    assert plan.kept is not None
    kept = plan.kept.sample * plan.num_samples + plan.kept.fixed
    assert 0.5 * kept < bytes_in(saved) < 1.5 * kept  # "about", of the policy


def test_a_policy_keeps_networks_beside_the_numbers_of_samples(data: Any) -> None:
    kept = {method: plan_of(config(method), data).kept for method in ("random", "data-agent")}
    assert all(44 <= own.sample <= 130 for own in kept.values() if own is not None)
    assert kept["data-agent"].fixed > 10 * kept["random"].fixed  # the policy's networks


def test_phases_are_named_with_what_they_are_made_of(data: Any) -> None:
    text = said(config(), data)
    assert text.startswith(
        "data-agent on 448 training samples of 10 classes: the cost of 3,584 visits, 50.0 % of "
        "full training, in 112 optimizer steps."
    )
    assert "  first pass, 1-2: 224 of all samples in turn\n" in text
    assert "  selection, 3-14: 22 drawn uniformly, 202 chosen\n" in text
    assert "  final phase, 15-16: 224 of all samples in turn\n" in text
    assert "Warning" not in text
    assert "in at most 224 optimizer steps" in said(config("infobatch-published"), data)
    assert "el2n starts from scores, which are made first" in said(config("el2n"), data)


@pytest.mark.parametrize(
    ("run", "text"),
    [
        (config(epochs=2), "nothing will be selected"),
        (config(epochs=4), "28 optimizer steps are few"),
        (config(keep_ratio=0.1, epochs=40), "--keep-ratio 0.1 is below 0.3"),
        (config(keep_ratio=0.05, epochs=60), "does not fill a batch of 32"),
        (config(keep_ratio=0.1, epochs=40), "an epoch has about 4.5 samples of a class"),
    ],
)
def test_what_will_be_little_worth_is_said(run: RunConfig[Any], text: str, data: Any) -> None:
    warned = [line for line in said(run, data).splitlines() if line.startswith("Warning: ")]
    assert any(text in line for line in warned)


def test_few_classes_are_a_warning(data: Any) -> None:
    two = replace(data, train_labels=data.train_labels % 2, class_names=("even", "odd"))
    assert "of 2 classes no doubtful label is left out" in said(config("label-aware"), two)


def test_a_pilot_is_short_and_costs_what_it_says(data: Any) -> None:
    run = config(epochs=60, trusted_rows=40).recipe
    recipe, part = shortened(run, data, keep_ratio=0.5, runs=8)
    visits = 8 * 0.5 * part.num_train * recipe.epochs
    assert visits == pytest.approx(COST * data.num_train * 60, rel=0.05)
    assert recipe.epochs == 8
    assert recipe.trusted_rows == 40 * part.num_train // 448
    assert (recipe.batch_size, recipe.learning_rate) == (16, 0.05)  # in proportion
    long, every = shortened(replace(run, epochs=400), data, keep_ratio=0.5, runs=8)
    assert every.num_train == 448
    assert long.epochs == 25


def test_the_command_advises_after_a_pilot(capsys: pytest.CaptureFixture[str]) -> None:
    line = ["plan", "--task", "digits", "--epochs", "24", "--label-noise", "0.4", "--device", "cpu"]
    assert main([*line, "--pilot"]) == 0
    found = capsys.readouterr().out
    assert "full training takes" in found
    assert "The pilot cost 25" in found
    for method in ("random", "label-aware", "data-agent"):
        assert f"\n  {method} " in found
    assert "\nAdvice: " in found


def test_the_command_trains_nothing_unless_it_is_asked(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_agent_lab.training.images.ImageEngine.build", None)
    assert main(["plan", "--task", "digits", "--no-time"]) == 0
    found = capsys.readouterr().out
    assert "About" not in found
    assert "Advice: cannot tell: classes are about equal. full-short is the simplest" in found


def test_the_time_of_samples_that_are_kept_is_measured_on_them(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "kept.parquet"
    write_columns(path, {"index": np.arange(100, 400)})
    assert main(["plan", "--task", "digits", "--epochs", "16", "--keep-index", str(path)]) == 0
    found = capsys.readouterr().out
    assert "data-agent on 300 training samples" in found
    assert "full training takes" in found


def test_prompts_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--task", "string-world", "--warm-up-steps", "0"]) == 2
    assert "plan is for samples of a data set, and string-world rolls prompts out" in " ".join(
        capsys.readouterr().err.split()
    )
