"""The fast selection against the plain one: a sort."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data_agent.errors import InputError
from data_agent.runtime.topk import top_k_mask

floats = st.floats(width=32, allow_nan=False)
coarse = st.sampled_from([-float("inf"), -1.0, -0.0, 0.0, 0.5, 0.5000001, 1.0, float("inf")])


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(floats, coarse), min_size=1, max_size=60), st.data())
def test_it_holds_the_highest_scores(values, data):
    scores = torch.tensor(values, dtype=torch.float32)
    excluded = torch.tensor(
        data.draw(st.lists(st.booleans(), min_size=len(scores), max_size=len(scores)))
    )
    count = data.draw(st.integers(0, int((~excluded).sum())))
    mask = top_k_mask(scores, count, tie_seed=1, excluded=excluded)
    assert int(mask.sum()) == count
    assert not (mask & excluded).any()
    allowed = scores[~excluded]
    expected = allowed.sort(descending=True).values[:count]
    assert torch.equal(scores[mask].sort(descending=True).values, expected)


def test_equal_scores_are_drawn_by_the_seed():
    scores = torch.zeros(10_000)
    first = top_k_mask(scores, 5_000, tie_seed=1)
    assert torch.equal(first, top_k_mask(scores, 5_000, tie_seed=1))
    overlap = (first & top_k_mask(scores, 5_000, tie_seed=2)).sum().item()
    assert 2_300 < overlap < 2_700  # independent halves share a quarter
    assert 2_300 < first[:5_000].sum().item() < 2_700  # no part of the data is preferred


def test_large_random_scores():
    scores = torch.randn(300_000, generator=torch.Generator().manual_seed(0))
    mask = top_k_mask(scores, 100_000, tie_seed=0)
    assert torch.equal(mask.nonzero().squeeze(1), scores.topk(100_000).indices.sort().values)


def test_nan_is_refused():
    with pytest.raises(InputError, match="1 of 2 scores are NaN"):
        top_k_mask(torch.tensor([1.0, torch.nan]), 1, tie_seed=0)
