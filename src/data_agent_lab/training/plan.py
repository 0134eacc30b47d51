"""What a method trains on, under the budget of a run."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from data_agent import SelectionSchedule, make_selector
from data_agent.errors import DataAgentWarning, InputError
from data_agent_lab.data.image_data import trusted_of
from data_agent_lab.methods import FULL, FULL_SHORT, needs
from data_agent_lab.recipes import ImageRecipe, Recipe, RunConfig, TextRecipe
from data_agent_lab.tasks import kept

_GIVEN = {"labels": torch.int64, "groups": torch.int64}  # what else is required are numbers


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


def sizes(recipe: Recipe, data: Any) -> tuple[int, int]:
    """Training samples of a run on loaded data, and how many are trusted; zeros without these.

    Raises:
        InputError: the data do not have as many as `--trusted-rows` asks for.
    """
    if recipe.trusted is None and not recipe.trusted_rows:
        return 0, 0
    is_packed = isinstance(recipe, TextRecipe) and recipe.packing  # how many packs is not known yet
    return kept(recipe, data).num_train, 1 if is_packed else num_trusted_of(data, recipe)


def num_trusted_of(data: Any, recipe: Recipe) -> int:
    """How many of the loaded training samples a run of the recipe trusts.

    Raises:
        InputError: there are not so many to trust.
    """
    if isinstance(recipe, TextRecipe):
        return data.num_trusted
    rows = trusted_of(data, recipe) if isinstance(recipe, ImageRecipe) else data.trusted(recipe)
    return 0 if rows is None else len(rows)


def check_trusted(runs: Sequence[RunConfig[Any]], num_samples: int, num_trusted: int) -> None:
    """Refuse trusted rows for which a method has no room, before anything is trained.

    Args:
        runs: of one recipe.
        num_samples: training samples, the trusted ones among them.
        num_trusted: of these.

    Raises:
        InputError: the message names all such methods.
    """
    problems: dict[str, None] = {}
    for run in runs if num_trusted else ():
        recipe, made = run.recipe, plan_run(run, num_samples=num_samples)
        given: dict[str, Any] = {
            name: torch.zeros(num_samples, dtype=_GIVEN.get(name)) for name in needs(run.method)
        }
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DataAgentWarning)  # the run itself will warn
                selector = make_selector(
                    made.selector,
                    num_samples=num_samples,
                    epochs=made.epochs,
                    keep_ratio=made.keep_ratio,
                    trusted=range(num_trusted),
                    **given,
                )
                selector.use_loader(recipe.batch_size)
        except InputError as error:
            flag = f"--trusted-rows {recipe.trusted_rows}"
            if recipe.trusted is not None:
                flag = f"--trusted {recipe.trusted}"
            problems[f"{recipe.task}: {run.method} cannot be trained with {flag}: {error}"] = None
    if problems:
        raise InputError("\n".join(problems))
