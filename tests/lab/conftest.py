from __future__ import annotations

import logging
import os
import random
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import datasets
import datasets.config
import numpy as np
import pytest
import torch
from PIL import Image

MakeSplit = Callable[..., datasets.Dataset]


@pytest.fixture(autouse=True)
def _own_caches(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or fills the user's caches, or asks the network."""
    caches = tmp_path_factory.mktemp("caches")
    monkeypatch.setenv("DATA_AGENT_CACHE", str(caches / "data-agent"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", caches / "datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


@pytest.fixture(autouse=True)
def _process_as_before() -> Iterator[None]:
    """A run seeds torch and sets its threads: it owns its process, but not the other tests'."""
    num_threads, generator_state = torch.get_num_threads(), torch.get_rng_state()
    yield
    torch.set_num_threads(num_threads)
    torch.set_rng_state(generator_state)


@pytest.fixture
def make_split() -> MakeSplit:
    """Makes a data set of images whose red channel is `10 * label + i`, i the number of the row."""

    def make(
        num_samples: int,
        *,
        num_classes: int = 2,
        image: str = "image",
        label: str = "label",
        size: int = 8,
        grey: bool = False,
    ) -> datasets.Dataset:
        labels = [i % num_classes for i in range(num_samples)]
        pixels = [np.zeros((size, size, 3), dtype=np.uint8) for _ in labels]
        for i, (array, value) in enumerate(zip(pixels, labels, strict=True)):
            array[..., : 3 if grey else 1] = (10 * value + i) % 256
        names = [f"class-{c}" for c in range(num_classes)]
        features = datasets.Features(
            {image: datasets.Image(), label: datasets.ClassLabel(names=names)}
        )
        columns = {image: [Image.fromarray(array) for array in pixels], label: labels}
        return datasets.Dataset.from_dict(columns, features=features)

    return make


@pytest.fixture
def parquet_folder(tmp_path: Path, make_split: MakeSplit) -> Path:
    """A folder with 40 training and 20 test images in two classes."""
    folder = tmp_path / "photos"
    folder.mkdir()
    make_split(40).to_parquet(folder / "train.parquet")
    make_split(20).to_parquet(folder / "test.parquet")
    return folder


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small made-up MMLU."""
    from mmlu_files import write_mmlu  # needs transformers

    return write_mmlu(tmp_path_factory.mktemp("files") / "mmlu")


LOGGERS = ("lm_eval", "transformers")


@pytest.fixture
def undisturbed(
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[], AbstractContextManager[None]]:
    """Fails a test whose block prints, warns, draws random numbers, or changes settings."""
    for name in LOGGERS:
        caplog.set_level(logging.WARNING, logger=name)
        monkeypatch.setattr(logging.getLogger(name), "propagate", True)  # as far as caplog

    def state() -> list[Any]:
        numpy = [str(part) for part in np.random.get_state()]  # noqa: NPY002
        levels = [logging.getLogger(name).level for name in LOGGERS]
        generators = [random.getstate(), numpy, torch.get_rng_state().tolist()]
        return [*generators, dict(os.environ), levels, torch.is_grad_enabled()]

    @contextmanager
    def check() -> Generator[None]:
        before = state()
        yield
        assert state() == before
        assert capfd.readouterr() == ("", "")
        assert [record.getMessage() for record in caplog.records] == []

    return check
