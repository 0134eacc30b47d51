"""What choosing prompts saves, against numbers computed by hand."""

from types import SimpleNamespace
from typing import Any

import pytest

from data_agent_lab.results.savings import SHARES, SPREADLESS, price_of, savings
from data_agent_lab.runs.result import Metric

SOLVED = Metric("accuracy", "%", "higher")


def runs(*curves, informative=0.5) -> Any:
    """By seed a run whose evaluations, 100 completions apart, have these values.

    `informative` is the share of its groups that have a spread.
    """
    return {
        seed: SimpleNamespace(
            evaluations=[
                {
                    "value": value,
                    "completions": 100.0 * (i + 1),
                    "generated_tokens": 300.0 * (i + 1),
                    "train_seconds": 2.0 * (i + 1),
                    "train_cpu_seconds": 1.5 * (i + 1),
                    "selector": {"informative_so_far": informative},
                }
                for i, value in enumerate(curve)
            ]
        )
        for seed, curve in enumerate(curves)
    }


def test_the_price_of_a_level_is_read_off_straight_lines():
    curve = [(100.0, 10.0), (200.0, 20.0), (300.0, 15.0), (400.0, 40.0)]
    assert price_of(curve, 15) == 150
    assert price_of(curve, 30) == 360  # 300 + 100 * 15 / 25
    assert price_of(curve, 5) == 100
    assert price_of(curve, 41) is None


def test_savings_are_paired_by_seed():
    # The control ends with 20, 24, 28: level 24. Seed 0 reaches it at 250 of 400 completions; in
    # seed 1 at 400, the control's own level being the same.
    control = runs([10, 20, 24, 28], [10, 20, 24, 28])
    mine = runs([10, 20, 28, 30], [10, 12, 14, 24], informative=0.6)
    found = savings(mine, control, SOLVED)
    assert set(found) == {*SHARES, SPREADLESS}
    for title in SHARES:
        assert found[title].mean == pytest.approx((0.625 + 1) / 2)
        assert found[title].count == 2
    assert found[SPREADLESS].mean == pytest.approx(0.4 / 0.5)


def test_the_controls_own_share_tells_how_flat_its_curve_is():
    flat = runs([10, 20, 20, 20])
    assert {savings(flat, flat, SOLVED)[title].mean for title in SHARES} == {0.5}


def test_a_level_that_is_not_reached_counts_in_full():
    found = savings(runs([1, 2, 3, 4]), runs([10, 20, 24, 28]), SOLVED)
    assert {share.mean for share in found.values()} == {1}
    assert savings({}, runs([1]), SOLVED) == {}
