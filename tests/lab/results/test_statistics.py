from __future__ import annotations

import pytest

from data_agent import DataAgentError
from data_agent_lab.results.statistics import (
    bootstrap_mean,
    estimate,
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


def test_a_bootstrap_over_three_tasks_covers_what_their_means_can_be() -> None:
    # The means of 3 of {0, 0, 3} are 0, 1, 2, 3 with probabilities 8, 12, 6, 1 of 27: the 2.5 %
    # quantile is 0, and 1/27 = 3.7 % lie at 3, so the 97.5 % quantile is 3.
    spread = bootstrap_mean([0.0, 0.0, 3.0])
    assert (spread.mean, spread.interval, spread.count) == (1.0, (0.0, 3.0), 3)
    assert bootstrap_mean([0.0, 0.0, 3.0]) == spread


def test_a_bootstrap_over_many_tasks_is_near_the_normal_interval() -> None:
    # 50 times 0 and 50 times 1: mean 0.5, standard error 0.05, half-width 1.96 * 0.05 = 0.098
    spread = bootstrap_mean([0.0, 1.0] * 50)
    assert spread.interval == pytest.approx((0.402, 0.598), abs=0.011)


def test_two_tasks_have_no_interval() -> None:
    assert bootstrap_mean([1.0, 2.0]).interval is None
