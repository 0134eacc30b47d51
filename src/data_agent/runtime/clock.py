"""How much of the training time is ours."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager


class Stopwatch:
    """Sums up the seconds of what runs inside `running`; host time, no device is waited for."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._seconds_here = 0.0
        self._first_start: float | None = None

    @contextmanager
    def running(self) -> Generator[None]:
        """Measure a block; an error inside is measured as well."""
        start = time.perf_counter()
        if self._first_start is None:
            self._first_start = start
        try:
            yield
        finally:
            elapsed = time.perf_counter() - start
            self.seconds += elapsed
            self._seconds_here += elapsed

    def share(self) -> float:
        """Measured seconds over all seconds since the first start in this process, in [0, 1]."""
        if self._first_start is None:
            return 0.0
        return self._seconds_here / (time.perf_counter() - self._first_start)
