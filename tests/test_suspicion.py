"""How suspicious a label is, by hand."""

import numpy as np
from numpy.testing import assert_allclose

from data_agent.suspicion import ranks, suspicion


def test_ranks_count_equal_values_half_and_nan_last():
    assert ranks(np.array([3.0, 1.0, 3.0, np.nan, 2.0])).tolist() == [0.75, 0.125, 0.75, 0, 0.375]
    assert ranks(np.array([np.nan])).tolist() == [0]


def test_suspicion_by_hand():
    columns = {
        "mean_loss": np.array([1.0, 2.0, 3.0]),
        "margin": np.array([0.5, -0.5, 0.0]),
        "loss": np.array([3.0, 1.0, 2.0]),
    }
    low, middle, high = 1 / 6, 3 / 6, 5 / 6
    expected = [
        (4 * low + high) / 5,
        (2 * middle + 2 * high + low) / 5,
        (2 * high + 3 * middle) / 5,
    ]
    assert_allclose(suspicion(columns), expected)
    assert_allclose(suspicion({"loss": columns["loss"]}), [high, low, middle])
