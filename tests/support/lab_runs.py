"""Runs of the lab in this process: begun, stopped, gone on with, and compared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from data_agent_lab.recipes import RunConfig
from data_agent_lab.runs.folder import RunFolder, open_run
from data_agent_lab.training.run import train_run


def run(
    path: Path, config: RunConfig, data: Any, **options: Any
) -> tuple[dict[str, Any] | None, RunFolder]:
    with open_run(path, config.flat(), resume=True) as folder:
        return train_run(config, data, folder, **options), folder


def finish(path: Path, config: RunConfig, data: Any) -> dict[str, Any]:
    result, _ = run(path, config, data)
    assert result is not None
    return result


def stop_after(num_steps: int) -> Callable[[], bool]:
    """True from the `num_steps`-th time it is asked; the loop asks once an optimizer step."""
    asked: list[int] = []

    def should_stop() -> bool:
        asked.append(1)
        return len(asked) >= num_steps

    return should_stop


def without_times(value: Any) -> Any:
    """The value less all that depends on the clock."""
    if isinstance(value, dict):
        clocks = ("seconds", "overhead")
        return {
            key: without_times(item)
            for key, item in value.items()
            if not any(clock in str(key) for clock in clocks)
        }
    if isinstance(value, list):
        return [without_times(item) for item in value]
    return value


def assert_same_state(found: Any, expected: Any, where: str = "") -> None:
    if isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected), where
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for key in expected:
            assert_same_state(found[key], expected[key], f"{where}/{key}")
    elif isinstance(expected, list | tuple):
        for number, (one, other) in enumerate(zip(found, expected, strict=True)):
            assert_same_state(one, other, f"{where}/{number}")
    else:
        assert found == expected, where
