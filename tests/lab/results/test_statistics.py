from __future__ import annotations

import numpy as np
import pytest

from data_agent import DataAgentError
from data_agent_lab.results.statistics import (
    estimate,
    mean_over_tasks,
    mean_ranks,
    paired_difference,
)


def test_mean_and_interval_of_three_values() -> None:
    # mean 2, s = 1, t(0.975, 2) = 4.302653: half-width 4.302653 / sqrt(3) = 2.484138
    result = estimate([1.0, 2.0, 3.0])
    assert result.mean == pytest.approx(2.0)
    assert result.half_width == pytest.approx(2.484138, abs=1e-6)
    assert result.count == 3


def test_mean_and_interval_of_two_values() -> None:
    # mean 2, s = sqrt(2), t(0.975, 1) = 12.7062: half-width 12.7062 * sqrt(2) / sqrt(2)
    assert estimate([1.0, 3.0]).half_width == pytest.approx(12.7062, abs=1e-4)


def test_one_value_has_no_interval() -> None:
    assert estimate([5.0]).half_width is None


def test_equal_values_have_an_interval_of_zero() -> None:
    assert estimate([0.1, 0.1, 0.1]).half_width == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [float("inf")]])
def test_values_that_have_no_mean_are_refused(values: list[float]) -> None:
    with pytest.raises(DataAgentError, match=r"no values|finite"):
        estimate(values)


def test_pairing_takes_out_what_seeds_have_in_common() -> None:
    method = {0: 91.0, 1: 71.0, 2: 51.0}
    reference = {0: 90.0, 1: 70.0, 2: 50.0}
    difference = paired_difference(method, reference)
    assert difference is not None
    assert difference.mean == pytest.approx(1.0)
    assert difference.half_width == pytest.approx(0.0, abs=1e-9)


def test_pairing_uses_common_seeds_only() -> None:
    difference = paired_difference({0: 3.0, 1: 4.0}, {1: 1.0, 2: 100.0})
    assert difference is not None
    assert (difference.mean, difference.count) == (3.0, 1)
    assert paired_difference({0: 3.0}, {1: 1.0}) is None


def test_ranks_by_hand_with_ties_and_common_seeds_only() -> None:
    # Seed 0: a 3, b 3, c 1 rank 1.5, 1.5, 3. Seed 1: a 1, b 2, c 3 rank 3, 2, 1. Seed 2 lacks c.
    values = {
        "a": {0: 3.0, 1: 1.0, 2: 9.0},
        "b": {0: 3.0, 1: 2.0, 2: 1.0},
        "c": {0: 1.0, 1: 3.0},
    }
    assert mean_ranks(values) == {"a": 2.25, "b": 1.75, "c": 2.0}


def test_without_a_common_seed_there_are_no_ranks() -> None:
    assert mean_ranks({"a": {0: 1.0}, "b": {1: 2.0}}) is None
    assert mean_ranks({}) is None


def test_the_interval_over_tasks_is_students() -> None:
    # Of {0, 0, 3}: a standard deviation of sqrt(3), so a standard error of 1; t(0.975, 2) = 4.3027.
    spread = mean_over_tasks([0.0, 0.0, 3.0])
    assert (spread.mean, spread.count) == (1.0, 3)
    assert spread.interval == pytest.approx((1 - 4.3027, 1 + 4.3027), abs=1e-4)


def test_the_interval_over_few_tasks_leaves_zero_out_no_oftener_than_it_says() -> None:
    draws = np.random.default_rng(0).normal(size=(2000, 5)).tolist()
    intervals = [mean_over_tasks(values).interval for values in draws]
    outside = sum(low > 0 or high < 0 for low, high in filter(None, intervals))
    assert outside / len(draws) == pytest.approx(0.05, abs=0.015)


def test_two_tasks_have_no_interval() -> None:
    assert mean_over_tasks([1.0, 2.0]).interval is None
