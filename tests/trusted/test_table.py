"""What is remembered of each sample, and the choice that is drawn from it."""

import pytest
import torch

from data_agent.errors import CheckpointError
from data_agent.runtime.topk import top_k_mask
from data_agent.trusted.table import LikenessTable, inclusion


def table_of(scores, *, seed=0, memory=0.5, sharpness=2.0):
    table = LikenessTable(len(scores), seed=seed, memory=memory, sharpness=sharpness)
    table.merge(torch.arange(len(scores)), table.rows(torch.tensor(scores)))
    return table


def test_a_first_visit_counts_whole_and_later_ones_are_averaged():
    table = LikenessTable(3, seed=0, memory=0.5, sharpness=1.0)
    table.merge(torch.tensor([0, 1]), torch.tensor([[1.0], [-2.0]]))
    table.merge(torch.tensor([0]), torch.tensor([[3.0]]))
    assert table.averages().tolist() == [2.0, -2.0, 0.0]


def test_draws_are_a_function_of_seed_and_epoch():
    table = table_of([0.0] * 100)
    assert torch.equal(table.scores(3), table.scores(3))
    assert not torch.equal(table.scores(3), table.scores(4))
    assert not torch.equal(table.scores(3), table_of([0.0] * 100, seed=1).scores(3))


@pytest.mark.parametrize("epoch", [0, 3, 100_000])
def test_the_first_choice_is_drawn_in_proportion_to_the_exponential_of_the_average(epoch):
    counts = torch.zeros(3)
    for seed in range(2000):
        counts[table_of([0.0, 0.5, 1.0], sharpness=2.0, seed=seed).scores(epoch).argmax()] += 1
    expected = torch.softmax(2.0 * torch.tensor([0.0, 0.5, 1.0]), 0)
    torch.testing.assert_close(counts / 2000, expected, rtol=0, atol=0.035)


def visits_of(table, *, size, count, epochs):
    visits = torch.zeros(epochs, size)
    for epoch in range(epochs):
        visits[epoch] = top_k_mask(table.scores(epoch), count, tie_seed=0)
    return visits


def test_where_averages_are_equal_samples_take_turns():
    visits = visits_of(table_of([1.5] * 400), size=400, count=200, epochs=32)
    assert visits.sum(0).min() >= 14  # of 16; of independent draws the least is about 8
    assert visits.sum(0).max() <= 18
    of_four = visits[:-3] + visits[1:-2] + visits[2:-1] + visits[3:]
    assert of_four.min() >= 1  # never long left out


@pytest.mark.parametrize(("sharpness", "high"), [(2.0, 6.0), (5.0, 6.0), (10.0, 3.0), (100.0, 9.0)])
def test_what_is_avoided_is_what_is_drawn_rarely_however_sharp_choices_are(sharpness, high):
    """250 samples are far above all others, which are alike: none of these is drawn rarely."""
    draws = torch.Generator().manual_seed(0)
    scores = -1 + 0.2 / sharpness * torch.randn(5000, generator=draws)
    scores[:250] = high
    table = table_of(scores.tolist(), sharpness=sharpness)
    visits = visits_of(table, size=5000, count=2500, epochs=60).sum(0)
    assert float((visits < 15).float().mean()) < 0.01
    assert table.avoided(2500) < 0.01
    scores[4000:] = -1 - 4 / sharpness
    table = table_of(scores.tolist(), sharpness=sharpness)
    assert table.avoided(2500) == pytest.approx(0.2, abs=0.01)


def test_each_sample_comes_as_often_as_it_should():
    scores = torch.linspace(-1, 1, 400)
    visits = visits_of(table_of(scores.tolist()), size=400, count=150, epochs=64).sum(0)
    expected = 64 * inclusion(2.0 * scores, 150 / 400)
    assert float((visits - expected).abs().max()) < 8
    assert float((visits - expected).square().mean().sqrt()) < 2  # of independent draws 3.5


def test_how_likely_each_is_drawn():
    # x = exp(-t) solves (1 - x) + (1 - x^2) = 1, the golden section.
    golden = (5**0.5 - 1) / 2
    chances = inclusion(torch.tensor([1.0, 2.0]).log(), 0.5)
    assert chances.tolist() == pytest.approx([1 - golden, golden], abs=1e-6)
    assert inclusion(torch.tensor([3.0, 3.0, 3.0]), 0.2).tolist() == pytest.approx([0.2] * 3)
    assert inclusion(torch.tensor([1.0, 1e6]).log(), 1.0).tolist() == pytest.approx([1.0] * 2)


def test_the_share_that_is_avoided_is_that_of_real_draws():
    scores = torch.linspace(-1.5, 1.5, 300).tolist()
    table, visits, count = table_of(scores), torch.zeros(300), 100
    for epoch in range(600):
        visits += top_k_mask(table.scores(epoch), count, tie_seed=0)
    drawn = float((visits / 600 < 0.5 * count / 300).float().mean())
    assert 0.2 < drawn < 0.8
    assert table.avoided(count) == pytest.approx(drawn, abs=0.04)
    assert table_of([0.7] * 50).avoided(25) == 0
    assert LikenessTable(9, seed=0, memory=0.5, sharpness=2.0).avoided(3) == 0


def test_a_sample_costs_two_bytes():
    state = table_of([0.0] * 1000).state_dict()["average"]
    assert state.numel() * state.element_size() == 2000


def test_infinite_averages_are_refused():
    state = table_of([0.0, 1.0]).state_dict()
    state["average"][0] = torch.inf
    with pytest.raises(CheckpointError, match="not finite"):
        table_of([0.0, 1.0]).load_state_dict(state)
