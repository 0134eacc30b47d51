"""The script of full length, at small size: slices, what it leaves behind, and its commands."""

from __future__ import annotations

import importlib
import json
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image
from small_images import encoded

from data_agent_lab.commands import Compare, parse
from data_agent_lab.recipes import ImageRecipe

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SMALL = ("--epochs", "4", "--model", "cnn", "--width", "4", "--image-size", "8", "--seeds", "1")
HERE = ("--device", "cpu", "--precision", "fp32", "--num-threads", "1")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(sys, "path", [*sys.path, str(BENCHMARKS)])
    return importlib.import_module("full_length")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """2,400 images of ten classes, and 50 to evaluate on."""
    draws = np.random.default_rng(0)
    (tmp_path / "data").mkdir()
    for split, count in (("train", 2400), ("test", 50)):
        labels = [i % 10 for i in range(count)]
        pixels = (
            draws.integers(0, 20, (count, 8, 8, 3)) + 20 * np.array(labels)[:, None, None, None]
        )
        images = [encoded(Image.fromarray(one.astype(np.uint8))) for one in pixels]
        columns = {"image": images, "label": labels}
        names = datasets.ClassLabel(names=[str(i) for i in range(10)])
        kinds = datasets.Features({"image": datasets.Image(), "label": names})
        table = datasets.Dataset.from_dict(columns, features=kinds)
        table.to_parquet(tmp_path / "data" / f"{split}.parquet")
    return tmp_path / "data"


def test_its_commands_are_of_full_length(script: Any) -> None:
    found = dict(script.comparisons("uoft-cs/cifar10", "zh-plus/tiny-imagenet"))
    assert [*found] == [
        *("cifar10-clean", "cifar10-clean-trusted", "cifar10-noise40", "cifar10-noise40-trusted"),
        *("tiny-imagenet-clean", "tiny-imagenet-clean-trusted"),
        *("tiny-imagenet-noise40", "tiny-imagenet-noise40-trusted"),
    ]
    for name, words in found.items():
        command = parse(["compare", *words])
        assert isinstance(command, Compare)
        recipe = command.recipe
        assert isinstance(recipe, ImageRecipe)
        assert recipe.model == "resnet-18"
        assert recipe.epochs == (200 if "cifar" in name else 100)
        assert recipe.label_noise == (0.4 if "noise" in name else 0.0)
        assert recipe.trusted_rows == (500 if "trusted" in name else 0)


@pytest.mark.slow
def test_it_goes_on_where_its_time_was_over(
    script: Any, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = script.comparisons
    monkeypatch.setattr(script, "comparisons", lambda *data: islice(every(*data), 2))
    output = tmp_path / "out"
    words = ["--output", str(output), "--cifar10", str(data), *SMALL, *HERE]
    assert script.main([*words, "--minutes", "0"]) == 75
    assert not output.exists()
    assert script.main([*words, "--minutes", "0.001"]) == 75
    assert [path.parent.name for path in output.rglob("checkpoint.safetensors")] != []
    assert script.main([*words, "--minutes", "60"]) == 0
    assert [*output.rglob("checkpoint*")] == []
    results = [json.loads(path.read_text()) for path in sorted(output.rglob("result.json"))]
    assert len(results) == 5 + 4
    assert {one.get("num_trusted_rows") or 0 for one in results} == {0, 500}
    assert (output / "cifar10-clean" / "comparison.md").is_file()
    assert script.main([*words, "--minutes", "60"]) == 0  # all is done: reports only
