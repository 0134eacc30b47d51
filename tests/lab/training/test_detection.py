"""Runs of detection: every method, what a look costs, stopping anywhere, and the page."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lab_runs import assert_same_state, finish, run, stop_after, without_times
from page_runs import Page
from shapes import HEIGHT, NAMES, WIDTH, scenes, shapes, write_parquet

from data_agent import DataAgentError
from data_agent.methods import METHODS
from data_agent.runtime import checkpoint
from data_agent_lab.cli import main
from data_agent_lab.data.boxes import DetectionData
from data_agent_lab.methods import FULL_SHORT, expected_cost
from data_agent_lab.recipes import RunConfig
from data_agent_lab.runs.folder import RunFolder
from data_agent_lab.runs.samples import read_columns
from data_agent_lab.tasks import recipe_for
from data_agent_lab.training.detection import DetectionEngine

N, EPOCHS, BATCH = 24, 8, 6
RECIPE: Any = replace(
    recipe_for("detection"),
    **{"image_width": WIDTH, "image_height": HEIGHT, "model": "detector-16", "device": "cpu"},
    **{"epochs": EPOCHS, "batch_size": BATCH, "num_evaluations": 2},
)
REFUSED = {  # methods that go by the class of a sample, or by groups of near-duplicates
    *(
        "label-aware",
        "noise-aware",
        "class-balanced-random",
        "cluster-balanced-random",
        "rcap",
        "small-margin",
    ),
    *("el2n", "grand", "forgetting", "k-center", "d2-pruning", "rl-selector", "divbs"),
    "spread-over-duplicates",
}


@pytest.fixture(scope="module")
def data() -> DetectionData:
    return shapes(N, 6)


def config_of(method: str, *, keep_ratio: float = 0.5, **changes: Any) -> RunConfig[Any]:
    return RunConfig(recipe=replace(RECIPE, **changes), method=method, keep_ratio=keep_ratio)


@pytest.mark.parametrize("method", [m for m in (*METHODS, FULL_SHORT) if m not in REFUSED])
def test_every_method_without_classes_trains_at_its_budget(
    tmp_path: Path, data: DetectionData, method: str
) -> None:
    result = finish(tmp_path / "run", config_of(method, num_evaluations=1), data)
    assert (result["metric"], result["unit"], result["direction"]) == ("mAP", "%", "higher")
    assert result["further_metrics"]["mAP50"]["value"] >= result["value"]
    assert set(result["class_accuracy"]) == set(NAMES)
    if method == "full":
        assert result["num_backward"] == EPOCHS * N
    elif method != "infobatch-published":  # whose epochs have a size of their own
        assert result["num_backward"] == EPOCHS * N // 2
    table, _ = read_columns(tmp_path / "run" / "samples.parquet")
    assert int(table["visits"].sum()) == result["num_backward"]


@pytest.mark.parametrize("method", sorted(REFUSED))
def test_methods_of_classes_are_refused_before_anything_is_written(
    tmp_path: Path, data: DetectionData, method: str
) -> None:
    with pytest.raises(DataAgentError, match=rf"'{method}' goes by .*here an image has boxes"):
        run(tmp_path / "run", config_of(method), data)
    assert not RunFolder(tmp_path / "run").checkpoint.exists()


def test_what_afss_looks_at_is_paid_for(tmp_path: Path, data: DetectionData) -> None:
    result, folder = run(tmp_path / "run", config_of("afss"), data)
    assert result is not None
    looks = 2 * N  # before epochs 2 and 7 of 8
    assert result["num_forward"] == result["num_backward"] + looks
    assert result["cost"] == pytest.approx(0.5 + looks / (3 * N * EPOCHS))
    assert result["cost"] == pytest.approx(expected_cost("afss", 0.5, epochs=EPOCHS))  # the plan's
    assert 0 < result["overhead_seconds"] < result["train_seconds"]
    lines = folder.metrics()
    assert [line["num_forward"] - line["num_backward"] for line in lines] == [
        *(0, N, N, N, N, N, 2 * N, 2 * N)
    ]
    whole = finish(tmp_path / "whole", config_of("afss", keep_ratio=1.0), data)
    assert whole["cost"] == 1.0  # where nothing is chosen nothing is looked at


def test_images_refuse_a_method_that_asks_for_boxes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--task", "digits", "--method", "afss"]) == 2
    assert "which --task detection alone has" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("method", ["full", "data-agent", "afss", "selective-backprop"])
def test_a_run_stopped_anywhere_and_resumed_equals_one_that_was_not(
    tmp_path: Path, data: DetectionData, method: str
) -> None:
    config = config_of(method)
    expected = finish(tmp_path / "whole", config, data)
    for steps in (3, 1, 4):
        result, _ = run(tmp_path / "parts", config, data, should_stop=stop_after(steps))
        torch.rand(steps)  # whatever a process did before it resumes must not matter
        assert result is None
    found = finish(tmp_path / "parts", config, data)
    assert without_times(found) == without_times(expected)
    whole, parts = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "parts")
    assert without_times(parts.metrics()) == without_times(whole.metrics())
    assert_same_state(
        without_times(checkpoint.load(parts.checkpoint)),
        without_times(checkpoint.load(whole.checkpoint)),
    )


def test_a_checkpoint_of_other_boxes_is_refused(tmp_path: Path, data: DetectionData) -> None:
    config = config_of("random")
    run(tmp_path / "run", config, data, should_stop=stop_after(2))
    moved = data.train_objects._replace(boxes=data.train_objects.boxes + 1)
    with pytest.raises(DataAgentError, match="the data have changed"):
        run(tmp_path / "run", config, replace(data, train_objects=moved))


@pytest.mark.parametrize("method", ["data-agent", "random", "afss"])
def test_trusted_images_are_in_every_epoch(
    tmp_path: Path, data: DetectionData, method: str
) -> None:
    config = config_of(method, trusted_rows=4)
    trusted = data.trusted(config.recipe)
    assert trusted is not None
    engine = DetectionEngine(config, data, RunFolder(tmp_path), device=torch.device("cpu"))
    engine.train(lambda _: False)
    assert torch.isin(trusted, engine.selector.select(EPOCHS - 1).index).all()
    assert engine.facts({"mAP50": 1.0})["num_trusted_rows"] == 4


def test_evaluation_leaves_no_trace(tmp_path: Path, data: DetectionData) -> None:
    config = config_of("random")
    engine = DetectionEngine(config, data, RunFolder(tmp_path), device=torch.device("cpu"))
    engine.model.train()
    before = {name: value.clone() for name, value in engine.model.state_dict().items()}
    generator = torch.get_rng_state()
    first, part = engine.evaluate(), engine.evaluate(2)
    assert engine.evaluate() == first
    assert part["loss"] != first["loss"]
    assert engine.model.training
    assert_same_state(engine.model.state_dict(), before)
    assert torch.equal(torch.get_rng_state(), generator)


def test_kept_images_are_those_that_are_trained_on(tmp_path: Path, data: DetectionData) -> None:
    index = tmp_path / "kept.csv"
    index.write_text("index\n" + "\n".join(map(str, range(0, N, 2))) + "\n")
    config = config_of("full", keep_index=str(index))
    engine = DetectionEngine(config, data, RunFolder(tmp_path), device=torch.device("cpu"))
    assert engine.data.num_train == N // 2
    assert torch.equal(engine.data.train_images, data.train_images[::2])


def test_shapes_are_learned(tmp_path: Path) -> None:
    config = config_of("full", model="detector-16", epochs=12, num_evaluations=1)
    result = finish(tmp_path / "run", config, shapes(48, 16))
    assert result["further_metrics"]["mAP50"]["value"] > 80


def test_a_comparison_writes_a_page_with_boxes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, output = tmp_path / "data", tmp_path / "runs"
    write_parquet(folder / "train.parquet", scenes(16))
    write_parquet(folder / "test.parquet", scenes(6, seed=1))
    flags = ["--image-width", str(WIDTH), "--image-height", str(HEIGHT), "--model", "detector-16"]
    flags += ["--epochs", "4", "--batch-size", "4", "--device", "cpu", "--jobs", "1"]
    given = ["--methods", "random,afss", "--seeds", "1", "--data", str(folder)]
    assert main(["compare", "--task", "detection", *flags, *given, "--output", str(output)]) == 0
    assert "mAP50 %" in capsys.readouterr().out
    page = Page((output / "report.html").read_text())
    assert page.count("svg", role="img") > 16
    assert page.count("rect", class_="box") > 16
    assert any("square" in text for text in page.texts)
    assert "mAP by class" in page.texts
    said = " ".join(page.texts)
    assert "mAP is that of the last epoch." in said
    assert "detector-16, 16 training samples, 4 epochs; evaluated on 6 samples" in said
