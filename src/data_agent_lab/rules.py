"""Which values the settings of a run may have, as annotations of their types, and the refusals."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from data_agent.errors import InputError


@dataclass(frozen=True, slots=True)
class Rule:
    """Which values of a field are valid: a test, and what it expects in words."""

    holds: Callable[[Any], bool]
    expected: str


def at_least(least: int) -> Rule:
    """Whole numbers from `least` on."""
    return Rule(
        lambda v: isinstance(v, int) and not isinstance(v, bool) and v >= least,
        f"a whole number, {least} or more",
    )


def number(holds: Callable[[float], bool], expected: str) -> Rule:
    """Finite numbers for which `holds`."""

    def is_valid(value: Any) -> bool:
        is_real = isinstance(value, int | float) and not isinstance(value, bool)
        return is_real and math.isfinite(value) and holds(value)

    return Rule(is_valid, expected)


Count = Annotated[int, at_least(1)]
Share = Annotated[float, number(lambda v: 0 <= v < 1, "a share in [0, 1)")]
Positive = Annotated[float, number(lambda v: v > 0, "a number above 0")]
NotNegative = Annotated[float, number(lambda v: v >= 0, "a number, 0 or more")]


def check_fields(settings: Any) -> None:
    """Raise `InputError` if a field of a dataclass breaks its rule; the message names its flag."""
    for name, (is_optional, rule) in _rules_of(type(settings)).items():
        value = getattr(settings, name)
        if not (is_optional and value is None) and not rule.holds(value):
            raise InputError(f"{flag_of(name)} is {value!r}; expected {rule.expected}.")


def check_list(flag: str, values: Sequence[object]) -> None:
    """Raise `InputError` if the list that a flag gives is empty, or names something twice."""
    if not values:
        raise InputError(f"{flag} is empty; name at least one.")
    for value in values:
        if values.count(value) > 1:
            raise InputError(f"{flag} names {value!r} twice; name each once.")


@cache
def _rules_of(kind: type) -> dict[str, tuple[bool, Rule]]:
    """By field that has a rule, whether it may be None, and the rule."""
    rules: dict[str, tuple[bool, Rule]] = {}
    for name, hint in get_type_hints(kind, include_extras=True).items():
        is_optional = type(None) in get_args(hint)
        of_value = get_args(hint)[0] if is_optional else hint
        if get_origin(of_value) is Literal:
            choices = get_args(of_value)
            rules[name] = is_optional, Rule(choices.__contains__, f"one of {', '.join(choices)}")
        elif isinstance(rule := getattr(of_value, "__metadata__", (None,))[0], Rule):
            rules[name] = is_optional, rule
    return rules


def flag_of(name: str) -> str:
    """The flag of the command line that sets a field."""
    return f"--{name.replace('_', '-')}"


def unknown(what: str, name: str, known: Iterable[str], *, other: str = "") -> InputError:
    """The error for a name of a `what` (a task) that is none of those known; suggests the nearest.

    `other` says what else would be valid, after the list of names.
    """
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return InputError(
        f"{what} {name!r} is unknown; expected one of {', '.join(known)}{other}.{hint}"
    )
