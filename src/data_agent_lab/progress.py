"""How long work reports how far it is, and whether it is asked to stop; a command line shows it."""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called as `progress(what, done, total)`: a short name of the work, and counts of its parts."""


def silent(what: str, done: int, total: int) -> None:
    """Report nothing."""


def never() -> bool:
    """Do not stop."""
    return False
