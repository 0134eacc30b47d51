"""What a comparison runs: tasks x methods x keep ratios x seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from data_agent.errors import InputError
from data_agent_lab.methods import check_method, ignores_keep_ratio
from data_agent_lab.recipes import PromptRecipe, Recipe, RunConfig
from data_agent_lab.rules import check_list

_T = TypeVar("_T")


def all_runs(
    recipes: Sequence[Recipe],
    *,
    methods: Sequence[str],
    keep_ratios: Sequence[float],
    seeds: Sequence[int],
) -> list[RunConfig[Any]]:
    """All runs: seed by seed, then task by task, so that early results cover everything.

    Methods whose cost is their own, such as full training, run once for all keep ratios, and so do
    all methods of prompt tasks, which have no keep ratio.

    Raises:
        InputError: a list is empty, or holds what is unknown, out of range or there twice; the
            message names it.
    """
    check_list("--methods", methods)
    check_list("--keep-ratios", keep_ratios)
    check_list("--seeds", seeds)
    for recipe in recipes:
        for method in methods:
            check_method(method, of_prompts=isinstance(recipe, PromptRecipe))
    for ratio in keep_ratios:
        if not 0 < ratio <= 1:
            raise InputError(
                f"--keep-ratios names {ratio}; expected shares of the samples in (0, 1]."
            )
    if min(seeds) < 0:
        raise InputError(f"--seeds names {min(seeds)}; expected 0 or more.")

    def budgets(recipe: Recipe) -> dict[tuple[float, str], None]:
        is_own = isinstance(recipe, PromptRecipe)
        return dict.fromkeys(
            (1.0 if is_own or ignores_keep_ratio(method) else ratio, method)
            for ratio in keep_ratios
            for method in methods
        )

    return [
        RunConfig(recipe=recipe, method=method, keep_ratio=ratio, seed=seed)
        for seed in seeds
        for recipe in recipes
        for ratio, method in budgets(recipe)
    ]


def parse_names(text: str) -> list[str]:
    """Names separated by commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def parse_keep_ratios(text: str) -> list[float]:
    """Shares separated by commas."""
    return _numbers("--keep-ratios", text, float, "shares such as 0.5,0.3")


def parse_seeds(text: str) -> list[int]:
    """A count ("5" is 0 to 4), or seeds separated by commas ("0,3,7"; "3," is one seed)."""
    numbers = _numbers("--seeds", text, int, "a count such as 5, or a list such as 0,3,7")
    if "," in text:
        return numbers
    if len(numbers) != 1 or numbers[0] < 1:
        raise InputError(f"--seeds is {text!r}; expected a count of 1 or more, or a list.")
    return list(range(numbers[0]))


def _numbers(flag: str, text: str, kind: Callable[[str], _T], expected: str) -> list[_T]:
    try:
        return [kind(part) for part in parse_names(text)]
    except ValueError as error:
        raise InputError(f"{flag} is {text!r}; expected {expected}.") from error
