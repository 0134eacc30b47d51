"""How long work reports how far it is and what it measured, and whether it is asked to stop."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

Progress = Callable[[str, int, int], None]
"""Called as `progress(what, done, total)`: a short name of the work, and counts of its parts."""


def silent(what: str, done: int, total: int) -> None:
    """Report nothing."""


def never() -> bool:
    """Do not stop."""
    return False


Tracker = Literal["tensorboard", "wandb", "trackio"]
"""Where lines of metrics are sent besides the folder of a run."""

Send = Callable[[Mapping[str, Any]], None]
"""Called with each line of metrics when it is written."""


def send_nowhere(line: Mapping[str, Any]) -> None:
    """Send it nowhere."""
