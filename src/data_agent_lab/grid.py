"""What a comparison runs: tasks x methods x keep ratios x seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from data_agent.errors import InputError
from data_agent_lab.methods import check_method, ignores_keep_ratio
from data_agent_lab.recipes import Recipe, RunConfig

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """All runs of a comparison.

    Args:
        recipes: one a task: how every method trains.
        methods: names of methods.
        keep_ratios: budgets, each a share in (0, 1].
        seeds: 0 or more; two or more give intervals, five are a claim.

    Raises:
        InputError: one is empty, unknown, out of range or named twice; the message names it.
    """

    recipes: Sequence[Recipe]
    methods: Sequence[str]
    keep_ratios: Sequence[float]
    seeds: Sequence[int]

    def __post_init__(self) -> None:
        _check_list("--methods", self.methods)
        _check_list("--keep-ratios", self.keep_ratios)
        _check_list("--seeds", self.seeds)
        for method in self.methods:
            check_method(method)
        for ratio in self.keep_ratios:
            if not 0 < ratio <= 1:
                raise InputError(
                    f"--keep-ratios names {ratio}; expected shares of the samples in (0, 1]."
                )
        if any(seed < 0 for seed in self.seeds):
            raise InputError(f"--seeds names {min(self.seeds)}; expected 0 or more.")

    def runs(self) -> list[RunConfig[Any]]:
        """All runs: seed by seed, then task by task, so that early results cover everything.

        Methods whose cost is their own, such as full training, run once for all keep ratios.
        """
        return [
            RunConfig(recipe=recipe, method=method, keep_ratio=ratio, seed=seed)
            for seed in self.seeds
            for recipe in self.recipes
            for ratio, method in self._budgets()
        ]

    def _budgets(self) -> Iterator[tuple[float, str]]:
        for place, ratio in enumerate(self.keep_ratios):
            for method in self.methods:
                if not ignores_keep_ratio(method):
                    yield ratio, method
                elif place == 0:
                    yield 1.0, method


def parse_names(text: str) -> list[str]:
    """Names separated by commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def parse_keep_ratios(text: str) -> list[float]:
    """Shares separated by commas.

    Raises:
        InputError: one is not a number.
    """
    return _numbers("--keep-ratios", text, float, "shares such as 0.5,0.3")


def parse_seeds(text: str) -> list[int]:
    """A count ("5" is 0 to 4), or seeds separated by commas ("0,3,7"; "3," is one seed).

    Raises:
        InputError: one is not a whole number, or the count is not 1 or more.
    """
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


def _check_list(flag: str, values: Sequence[object]) -> None:
    if not values:
        raise InputError(f"{flag} is empty; name at least one.")
    for value in values:
        if values.count(value) > 1:
            raise InputError(f"{flag} names {value!r} twice; name each once.")
