"""Means with their 95 % intervals: over seeds, of differences paired by seed, and over tasks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit  # scipy.stats takes a second to import

from data_agent.errors import InputError

CONFIDENCE = 0.95
LEAST_TASKS = 3  # the interval of fewer is too wide to say anything
FEWEST_SEEDS = 3  # the interval of fewer is 13 standard errors wide and no claim


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean of `count` values; half the width of its 95 % interval, None for a single value."""

    mean: float
    half_width: float | None
    count: int


@dataclass(frozen=True, slots=True)
class Spread:
    """A mean over `count` tasks, and its 95 % interval; None where the tasks are too few."""

    mean: float
    interval: tuple[float, float] | None
    count: int


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and Student's t interval of independent values, one a seed.

    `mean +- t(0.975, n - 1) * s / sqrt(n)` with `s` the sample standard deviation (n - 1).

    Raises:
        InputError: no values, or one that is not finite (a NaN would hide in the table).
    """
    if not values:
        raise InputError("no values to average: none of the runs has finished.")
    if not all(map(math.isfinite, values)):
        raise InputError(f"values to average must be finite numbers, got {list(values)}.")
    count = len(values)
    mean = math.fsum(values) / count
    if count == 1:
        return Estimate(mean, None, count)
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    quantile = float(stdtrit(count - 1, (1 + CONFIDENCE) / 2))
    return Estimate(mean, quantile * math.sqrt(variance / count), count)


def paired_difference(
    values: Mapping[int, float], reference: Mapping[int, float]
) -> Estimate | None:
    """Mean and interval of `values - reference`, paired by seed; None without a common seed.

    Pairing takes out what a seed does to both runs: initial weights, label noise.
    """
    common = sorted(values.keys() & reference.keys())
    return estimate([values[seed] - reference[seed] for seed in common]) if common else None


def mean_over_tasks(values: Sequence[float]) -> Spread:
    """Mean of one value a task, with Student's t interval over tasks; none of fewer than three.

    A percentile interval of resampled tasks is too narrow of so few: of ten without any difference
    it leaves zero out in a tenth of the cases, of five in a sixth.
    """
    over = estimate(values)
    if len(values) < LEAST_TASKS or over.half_width is None:
        return Spread(over.mean, None, over.count)
    interval = over.mean - over.half_width, over.mean + over.half_width
    return Spread(over.mean, interval, over.count)


def mean_ranks(values: Mapping[str, Mapping[int, float]]) -> dict[str, float] | None:
    """The rank of each method, from values by method and seed, averaged over their common seeds.

    Rank 1 is the highest value; equal values share the mean of their ranks. None without a seed
    that all methods have.
    """
    seeds = set.intersection(*map(set, values.values())) if values else None
    if not seeds:
        return None
    table = np.array([[by_seed[seed] for by_seed in values.values()] for seed in sorted(seeds)])
    others, own = table[:, None, :], table[:, :, None]
    ranks = ((others > own).sum(2) + ((others == own).sum(2) + 1) / 2).mean(axis=0)
    return dict(zip(values, ranks.tolist(), strict=True))
