"""What the settings of a run may be: each field's rule, told by the flag it is set with."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from data_agent.errors import InputError

Rules = Mapping[str, tuple[Callable[[Any], bool], str]]
"""By field, whether a value is valid, and what is expected in words."""


def check_fields(settings: Any, rules: Rules) -> None:
    """Raise `InputError` if a field of a dataclass breaks its rule; the message names its flag."""
    for name in (field.name for field in fields(settings) if field.name in rules):
        is_valid, expected = rules[name]
        value = getattr(settings, name)
        if not is_valid(value):
            raise InputError(f"{flag_of(name)} is {value!r}; expected {expected}.")


def flag_of(name: str) -> str:
    """The flag of the command line that sets a field."""
    return f"--{name.replace('_', '-')}"


def is_count(value: object, least: int = 1) -> bool:
    """Whether it is a whole number, `least` or more."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_number(value: object) -> bool:
    """Whether it is a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value)


def is_share(value: Any) -> bool:
    """True in [0, 1)."""
    return is_number(value) and 0 <= value < 1
