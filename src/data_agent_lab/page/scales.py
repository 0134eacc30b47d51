"""From values to places of a drawing: linear scales, and ticks at round numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps [low, high] of values to [start, end] of a drawing; low < high."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The place of a value; one outside of the range lies outside of the drawing."""
        share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def inside(self, value: float) -> float:
        """The place of the nearest value in the range."""
        return self(min(self.high, max(self.low, value)))

    def ticks(self, count: int = 5) -> list[float]:
        """About so many round values in the range."""
        step = round_step((self.high - self.low) / max(1, count))
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [number * step for number in range(first, last + 1)]


def round_step(least: float) -> float:
    """The smallest of 1, 2, 2.5, 5 times a power of ten that is `least` (> 0) or more."""
    power = 10.0 ** math.floor(math.log10(least))
    return next((f * power for f in (1, 2, 2.5, 5) if f * power >= least * 0.999), 10 * power)


def spanning(values: Iterable[float], start: float, end: float, *, margin: float = 0.06) -> Scale:
    """A scale over the finite values, with a share of their range left free on both sides."""
    finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    pad = margin * (high - low) or abs(high) * margin or 1.0
    return Scale(low - pad, high + pad, start, end)


def tick_format(ticks: Sequence[float]) -> Callable[[float], str]:
    """Writes every tick with the decimals that their distance needs."""
    step = min((b - a for a, b in pairwise(ticks)), default=1.0)
    digits = next((d for d in range(7) if abs(round(step, d) - step) < 1e-9 * step), 6)
    return lambda value: f"{value:,.{digits}f}".replace("-", "\N{MINUS SIGN}")
