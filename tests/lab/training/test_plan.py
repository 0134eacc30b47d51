from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from data_agent_lab.recipes import RunConfig
from data_agent_lab.tasks import recipe_for
from data_agent_lab.training.plan import Plan, plan_run


def plan(method: str, *, keep_ratio: float = 0.3, num_samples: int = 1000, **changes: int) -> Plan:
    small: dict[str, Any] = {"epochs": 10, "batch_size": 64, **changes}
    recipe = replace(recipe_for("digits"), **small)
    config = RunConfig(recipe=recipe, method=method, keep_ratio=keep_ratio)
    return plan_run(config, num_samples=num_samples)


def test_a_selector_trains_at_the_keep_ratio() -> None:
    assert plan("data-agent") == Plan(selector="data-agent", keep_ratio=0.3, epochs=10)


def test_full_trains_on_everything() -> None:
    assert plan("full") == Plan(selector="full", keep_ratio=1.0, epochs=10)


@pytest.mark.parametrize("keep_ratio", [0.05, 0.25, 0.3, 0.5, 0.77, 1.0])
@pytest.mark.parametrize(("num_samples", "batch_size"), [(1000, 64), (999, 7), (50, 64)])
def test_full_short_has_the_steps_of_the_budget(
    keep_ratio: float, num_samples: int, batch_size: int
) -> None:
    short = plan(
        "full-short", keep_ratio=keep_ratio, num_samples=num_samples, batch_size=batch_size
    )
    kept = math.floor(keep_ratio * num_samples + 0.5)
    steps_per_epoch = math.ceil(num_samples / batch_size)
    assert short.max_steps == 10 * math.ceil(kept / batch_size)
    assert (short.selector, short.keep_ratio) == ("full", 1.0)
    assert short.max_steps is not None
    # Just as many epochs as hold these steps.
    assert (short.epochs - 1) * steps_per_epoch < short.max_steps <= short.epochs * steps_per_epoch


def test_full_short_counts_optimizer_steps_under_accumulation() -> None:
    # 300 samples are 5 batches of 64, in groups of 2: 3 steps an epoch, of 8 in a full one.
    short = plan("full-short", accumulation=2)
    assert (short.max_steps, short.epochs) == (30, 4)
