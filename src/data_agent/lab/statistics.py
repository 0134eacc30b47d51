"""Means with their 95 % intervals: over seeds, and of differences paired by seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy import stats

from data_agent._errors import InputError

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean of `count` values; half the width of its 95 % interval, None for a single value."""

    mean: float
    half_width: float | None
    count: int


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and Student's t interval of independent values.

    `mean +- t(0.975, n - 1) * s / sqrt(n)` with `s` the sample standard deviation (n - 1).

    Args:
        values: one finite number a seed, at least one.

    Raises:
        InputError: no values, or one that is not finite (a NaN would hide in the table).
    """
    if not values:
        raise InputError("no values to average: none of the runs has finished.")
    if not all(math.isfinite(value) for value in values):
        raise InputError(f"values to average must be finite numbers, got {list(values)}.")
    count = len(values)
    mean = math.fsum(values) / count
    if count == 1:
        return Estimate(mean, None, count)
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1))
    return Estimate(mean, quantile * math.sqrt(variance / count), count)


def paired_difference(
    values: Mapping[int, float], reference: Mapping[int, float]
) -> Estimate | None:
    """Mean and interval of `values - reference`, paired by seed; None without a common seed.

    Pairing takes out what a seed does to both runs (initial weights, label noise), so the interval
    is that of the method's effect.

    Args:
        values: a finite number for each seed.
        reference: the same of the method to compare with.
    """
    common = sorted(values.keys() & reference.keys())
    if not common:
        return None
    return estimate([values[seed] - reference[seed] for seed in common])
