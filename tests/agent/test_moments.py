"""Running statistics against the plain way."""

import pytest
import torch

from data_agent.agent.moments import Moments, batch_moments, merged, standardised


def test_merging_batches_equals_all_rows_at_once():
    rows = torch.randn(100, 3, dtype=torch.float64) * 5 + 100
    together = torch.zeros(3, 3, dtype=torch.float64)
    for batch in rows.split([1, 9, 40, 50]):
        together = merged(together, batch_moments(batch))
    torch.testing.assert_close(together[1], rows.mean(0))
    torch.testing.assert_close(together[2] / 100, rows.var(0, unbiased=False))


def test_standardised_rows_have_mean_zero_and_deviation_one():
    rows = torch.randn(500, 2, dtype=torch.float64) * torch.tensor([1e-4, 1e3]) + 7
    scaled = standardised(rows, batch_moments(rows))
    torch.testing.assert_close(scaled.mean(0), torch.zeros(2, dtype=torch.float64))
    torch.testing.assert_close(scaled.std(0, unbiased=False), torch.ones(2, dtype=torch.float64))


def test_a_constant_coordinate_gives_zero():
    rows = torch.full((8, 1), 0.1)
    assert standardised(rows, batch_moments(rows)).abs().max() == 0


def test_the_past_fades_beyond_the_window():
    moments = Moments(1, window=100, device=torch.device("cpu"), dtype=torch.float64)
    for value in [0.0] * 10 + [1.0] * 10:
        moments.add(torch.full((100, 1), value, dtype=torch.float64))
        moments.settle()
    mean = float(moments.state_dict()["settled"][1])
    assert mean == pytest.approx(1 - 0.5**10)  # each batch weighs as much as all before it


def test_statistics_in_use_stand_still_between_updates():
    moments = Moments(1, window=100, device=torch.device("cpu"), dtype=torch.float64)
    first = torch.tensor([[0.0], [2.0]], dtype=torch.float64)
    moments.add(first)
    assert moments.standardised(first).squeeze(1).tolist() == [-1.0, 1.0]
    moments.settle()
    moments.add(first + 100)
    assert moments.standardised(first).squeeze(1).tolist() == [-1.0, 1.0]
