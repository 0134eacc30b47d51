"""One line in any loop sends a selector's metrics to a tracker."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from data_agent import make_selector
from data_agent.errors import InputError
from data_agent.integrations.tracking import track


def test_tensorboard_reads_what_the_selector_says(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="no tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    selector = make_selector("random", num_samples=8, epochs=8, keep_ratio=0.5)
    with SummaryWriter(str(tmp_path)) as writer:
        for epoch in range(2):
            track(writer, selector.metrics(), epoch)
    found = EventAccumulator(str(tmp_path)).Reload()
    assert set(found.Tags()["scalars"]) == {f"data_agent/{name}" for name in selector.metrics()}
    assert [event.step for event in found.Scalars("data_agent/planned_cost")] == [0, 1]
    assert found.Scalars("data_agent/planned_cost")[0].value == selector.metrics()["planned_cost"]


def test_a_run_with_log_gets_all_at_once() -> None:
    logged: list[Any] = []
    run = SimpleNamespace(log=lambda values, step: logged.append((values, step)))
    track(run, {"tau": 0.5, "visits": 8}, 3, prefix="")
    assert logged == [({"tau": 0.5, "visits": 8}, 3)]


def test_something_else_is_refused() -> None:
    with pytest.raises(InputError, match="dict has neither add_scalar nor log; expected a Summary"):
        track({}, {"tau": 0.5}, 0)
