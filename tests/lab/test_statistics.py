from __future__ import annotations

import pytest

from data_agent import DataAgentError
from data_agent.lab.statistics import estimate, paired_difference


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
