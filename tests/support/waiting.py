"""What another process does comes when it comes."""

import time
from collections.abc import Callable


def wait_until(condition: Callable[[], object], what: str, seconds: float = 120) -> None:
    """Wait until a condition is true.

    Raises:
        AssertionError: it is not within so many seconds; the message says that `what` never came.
    """
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what} never came"
        time.sleep(0.02)
