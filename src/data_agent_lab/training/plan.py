"""What a method trains on, under the budget of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from data_agent import SelectionSchedule
from data_agent_lab.methods import FULL, FULL_SHORT
from data_agent_lab.recipes import RunConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What to make a run's selector with, and the optimizer steps after which the run ends."""

    selector: str  # name for `make_selector`
    keep_ratio: float
    epochs: int
    max_steps: int | None = None  # None means at its schedule's end


def plan_run(config: RunConfig[Any], *, num_samples: int, world: int = 1) -> Plan:
    """The plan of a run over so many samples; so many ranks may leave out the rest of an epoch."""
    method, recipe = config.method, config.recipe
    if method == FULL:
        return Plan(selector=FULL, keep_ratio=1.0, epochs=recipe.epochs)
    if method != FULL_SHORT:
        return Plan(selector=method, keep_ratio=config.keep_ratio, epochs=recipe.epochs)

    def num_steps(keep_ratio: float, epochs: int, world: int = 1) -> int:
        schedule = SelectionSchedule(num_samples=num_samples, epochs=epochs, keep_ratio=keep_ratio)
        schedule = schedule.for_loader(recipe.batch_size // world, world=world, drop_last=False)
        return schedule.total_steps(accumulation=recipe.accumulation)

    # The same epochs on any number of ranks, so that a run can be resumed on another number.
    short = -(-num_steps(config.keep_ratio, recipe.epochs) // num_steps(1.0, 1))
    budget = num_steps(config.keep_ratio, recipe.epochs, world)
    return Plan(selector=FULL, keep_ratio=1.0, epochs=short, max_steps=budget)
