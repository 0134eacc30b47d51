"""How long work reports how far it is; the command line draws it, others may stay silent."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called as `progress(what, done, total)`: a short name of the work, and counts of its parts."""


def silent(what: str, done: int, total: int) -> None:
    """Report nothing."""
