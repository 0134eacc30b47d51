"""What was probably meant by a name that nothing has."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from inspect import Parameter, signature
from typing import Any, Self

from data_agent.errors import InputError


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A sentence with what was probably meant by `name`; empty where nothing is near it."""
    plain = {other.lower().replace("-", "").replace("_", ""): other for other in known}
    close = difflib.get_close_matches(name.lower().replace("-", "").replace("_", ""), plain, n=1)
    return f" Did you mean {plain[close[0]]!r}?" if close else ""


_BY_NAME = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)


class ChecksNames:
    """Refuses arguments that its class does not have, and says which one was probably meant.

    Where a class hands arguments on to a base class, only those that are near a known name: it may
    have others of its own.
    """

    __slots__ = ()

    def __new__(cls, *args: Any, **options: Any) -> Self:
        """An object; an InputError names an argument that is unknown."""
        del args
        known = arguments_of(cls)
        for name in options.keys() - known:
            hint = did_you_mean(name, known)
            if hint or not _hands_on(cls):
                raise InputError(
                    f"{cls.__name__} has no argument {name!r}; it takes {', '.join(known)}.{hint}"
                )
        return super().__new__(cls)


def arguments_of(kind: type) -> list[str]:
    """What may be passed by name to a class, or by it to those of its bases that it hands on to."""
    found: dict[str, None] = {}
    for base in kind.__mro__:
        own = _own(base)
        found.update(dict.fromkeys(p.name for p in own if p.kind in _BY_NAME))
        if not _hands_on(base):
            break
    return list(found)


def _own(kind: type) -> list[Parameter]:
    """The parameters of a class's `__init__` after its first."""
    return [*signature(kind.__init__).parameters.values()][1:]


def _hands_on(kind: type) -> bool:
    return any(p.kind is Parameter.VAR_KEYWORD for p in _own(kind))
