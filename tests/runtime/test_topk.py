"""The fast selection against the plain one: a sort."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data_agent.errors import InputError
from data_agent.runtime import topk
from data_agent.runtime.random import position_hash
from data_agent.runtime.topk import draw_mask, highest_of_each, top_k_mask

coarse = st.sampled_from([-float("inf"), -1.0, -0.0, 0.0, 0.5, 0.5000001, 1.0, float("inf")])
scores_of = {
    torch.float32: st.one_of(st.floats(width=32, allow_nan=False), coarse),
    torch.int8: st.integers(-128, 127),
    torch.bool: st.booleans(),
}


@pytest.fixture(autouse=True, params=["histograms", "as it is"])
def _every_part(request, monkeypatch):
    """In one run what is left at last is never sorted, and small data span several blocks."""
    if request.param == "histograms":
        monkeypatch.setattr(topk, "FEW", 0)
        monkeypatch.setattr(topk, "BLOCK", 24)


def by_sort(scores, quota, *, tie_seed, group, among):
    """Obviously right: sorts each group by score, then by the hash of the tie seed."""
    ties = position_hash(torch.arange(len(scores)), tie_seed)
    mask = torch.zeros(len(scores), dtype=torch.bool)
    for number, count in enumerate(quota.tolist(), start=-1):
        rows = (among & (group == number)).nonzero().squeeze(1).tolist()
        rows.sort(key=lambda row: (-float(scores[row]), -int(ties[row])))
        mask[rows[:count]] = True
    return mask


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(list(scores_of)), st.integers(1, 5), st.integers(0, 3), st.data())
def test_it_marks_what_a_sort_of_each_group_finds(dtype, num_groups, tie_seed, data):
    values = data.draw(st.lists(scores_of[dtype], min_size=1, max_size=60))
    size = len(values)
    group = data.draw(st.lists(st.integers(-1, num_groups - 2), min_size=size, max_size=size))
    among = data.draw(st.lists(st.booleans(), min_size=size, max_size=size))
    quota = data.draw(st.lists(st.integers(0, 70), min_size=num_groups, max_size=num_groups))
    options = {"tie_seed": tie_seed, "group": torch.tensor(group), "among": torch.tensor(among)}
    scores, quota = torch.tensor(values, dtype=dtype), torch.tensor(quota)
    expected = by_sort(scores, quota, **options)
    assert torch.equal(highest_of_each(scores, quota, **options), expected)


@pytest.mark.parametrize("num_groups", [1, 7, 1000, 50_000])
@pytest.mark.parametrize("kind", ["spread", "by group", "equal", "flags", "bytes"])
def test_it_marks_what_a_sort_finds_in_many_samples(num_groups, kind, monkeypatch):
    monkeypatch.setattr(topk, "BLOCK", 8192)
    size = 60_000
    draws = torch.Generator().manual_seed(0)
    group = torch.randint(0, num_groups, (size,), generator=draws).to(torch.int32)
    noise = torch.randn(size, generator=draws)
    scores = {
        "spread": noise,
        "by group": group + noise / 100,  # which of the first bits tell nothing within a group
        "equal": torch.zeros(size),
        "flags": noise > 0.5,
        "bytes": (40 * noise).clamp(-128, 127).to(torch.int8),
    }[kind]
    among = torch.rand(size, generator=draws) < 0.8
    sizes = torch.bincount(group[among], minlength=num_groups)
    quota = (sizes * torch.rand(num_groups, generator=draws)).long()
    mask = highest_of_each(scores, quota, tie_seed=3, group=group - 1, among=among.clone())
    ties, group = position_hash(torch.arange(size), 3).numpy(), group.numpy()
    rows = np.flatnonzero(among.numpy())
    order = rows[np.lexsort([-ties[rows], -scores.numpy()[rows].astype(float), group[rows]])]
    first = np.searchsorted(group[order], np.arange(num_groups))
    rank = np.arange(len(order)) - first[group[order]]
    expected = np.zeros(size, dtype=bool)
    expected[order[rank < quota.numpy()[group[order]]]] = True
    assert np.array_equal(mask.numpy(), expected)


@settings(max_examples=200, deadline=None)
@given(st.lists(scores_of[torch.float32], min_size=1, max_size=60), st.data())
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


@pytest.mark.parametrize("scores", [torch.zeros(10_000), torch.zeros(10_000, dtype=torch.bool)])
def test_equal_scores_are_drawn_by_the_seed(scores):
    first = top_k_mask(scores, 5_000, tie_seed=1)
    assert torch.equal(first, top_k_mask(scores, 5_000, tie_seed=1))
    overlap = (first & top_k_mask(scores, 5_000, tie_seed=2)).sum().item()
    assert 2_300 < overlap < 2_700  # independent halves share a quarter
    assert 2_300 < first[:5_000].sum().item() < 2_700  # no part of the data is preferred


def test_all_samples_are_drawn_equally_often_and_independently_of_their_neighbours():
    times = torch.zeros(200)
    with_neighbour = 0
    for seed in range(500):
        mask = draw_mask(200, 60, seed)
        times += mask
        with_neighbour += int((mask[1:] & mask[:-1]).sum())
    assert abs(times - 150).max() < 5 * (500 * 0.3 * 0.7) ** 0.5
    # Of two neighbours both are drawn in 60 * 59 of 200 * 199 times.
    assert with_neighbour / (500 * 199) == pytest.approx(60 * 59 / (200 * 199), abs=0.004)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 80), st.integers(0, 5), st.data())
def test_more_draws_with_one_seed_only_add(size, seed, data):
    some = data.draw(st.integers(0, size))
    more = data.draw(st.integers(some, size))
    drawn = draw_mask(size, some, seed)
    assert int(drawn.sum()) == some
    assert not (drawn & ~draw_mask(size, more, seed)).any()


@pytest.mark.parametrize("count", [1, 70, 3_000, 150_000])
def test_few_of_many_are_drawn_as_a_sort_by_the_hash_draws_them(count, monkeypatch):
    monkeypatch.setattr(topk, "BLOCK", 32_768)
    size = 200_000
    among = torch.rand(size, generator=torch.Generator().manual_seed(0)) < 0.9
    ranked = position_hash(torch.arange(size), 5).masked_fill(~among, -1)
    expected = torch.zeros(size, dtype=torch.bool)
    expected[ranked.argsort(descending=True)[:count]] = True
    assert torch.equal(draw_mask(size, count, 5, among.clone()), expected)


def test_large_random_scores():
    scores = torch.randn(300_000, generator=torch.Generator().manual_seed(0))
    mask = top_k_mask(scores, 100_000, tie_seed=0)
    assert torch.equal(mask.nonzero().squeeze(1), scores.topk(100_000).indices.sort().values)


def test_nan_is_refused():
    with pytest.raises(InputError, match="1 of 2 scores are NaN"):
        top_k_mask(torch.tensor([1.0, torch.nan]), 1, tie_seed=0)
