from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from data_agent_lab.recipes import Schedule
from data_agent_lab.tasks import recipe_for
from data_agent_lab.training.optimisation import learning_rate, make_optimizer


def rates(schedule: Schedule, num_steps: int) -> list[float]:
    return [
        learning_rate((step + 0.5) / num_steps, peak=0.4, schedule=schedule)
        for step in range(num_steps)
    ]


def test_one_cycle_by_hand() -> None:
    # t = 0.05: rising, 0.4 (1/25 + 24/25 (1 - cos(pi/6)) / 2) = 0.4 * 0.10431 = 0.041723
    # t = 0.65: falling, half-way from 0.3 to 1, so half of the peak
    found = rates("one-cycle", 10)
    assert found[0] == pytest.approx(0.041723, abs=1e-5)
    assert found[6] == pytest.approx(0.2)


@pytest.mark.parametrize("schedule", ["one-cycle", "cosine"])
def test_agrees_with_torch_over_a_long_run(schedule: Schedule) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.4)
    reference: torch.optim.lr_scheduler.LRScheduler
    if schedule == "one-cycle":
        reference = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=0.4, total_steps=2000, cycle_momentum=False
        )
    else:
        reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=2000)
    for rate in rates(schedule, 2000):
        assert rate == pytest.approx(reference.get_last_lr()[0], abs=0.4 * 3e-3)
        optimizer.step()
        reference.step()


@pytest.mark.parametrize("schedule", ["one-cycle", "cosine"])
@pytest.mark.parametrize("num_steps", [1, 2, 3, 50])
def test_every_step_learns_and_the_last_ones_least(schedule: Schedule, num_steps: int) -> None:
    found = rates(schedule, num_steps)
    assert all(0 < rate <= 0.4 for rate in found)
    if num_steps == 50:
        assert found[-1] < 0.001


def test_optimizers_take_the_recipes_settings() -> None:
    model = torch.nn.Linear(2, 2)
    recipe = replace(recipe_for("digits"), learning_rate=0.01, weight_decay=0.2, momentum=0.7)
    sgd = make_optimizer(model, recipe)
    assert isinstance(sgd, torch.optim.SGD)
    assert (sgd.defaults["momentum"], sgd.defaults["nesterov"]) == (0.7, True)
    adamw = make_optimizer(model, replace(recipe, optimizer="adamw"))
    assert isinstance(adamw, torch.optim.AdamW)
    assert adamw.defaults["weight_decay"] == 0.2
