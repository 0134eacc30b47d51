from __future__ import annotations

import logging
import os
import random
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch


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
