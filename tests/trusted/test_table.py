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


def test_the_first_choice_is_drawn_in_proportion_to_the_exponential_of_the_average():
    table = table_of([0.0, 0.5, 1.0], sharpness=2.0)
    counts = torch.zeros(3)
    for epoch in range(4000):
        counts[table.scores(epoch).argmax()] += 1
    expected = torch.softmax(2.0 * torch.tensor([0.0, 0.5, 1.0]), 0)
    torch.testing.assert_close(counts / 4000, expected, rtol=0, atol=0.025)


def test_equal_averages_are_a_uniform_draw():
    table = table_of([1.5] * 200)
    visits = torch.zeros(200)
    for epoch in range(400):
        visits += top_k_mask(table.scores(epoch), 100, tie_seed=0)
    assert visits.min() > 150  # mean 200, deviation 10
    assert visits.max() < 250


def test_how_likely_each_is_drawn():
    # x = exp(-t) solves (1 - x) + (1 - x^2) = 1, the golden section.
    golden = (5**0.5 - 1) / 2
    chances = inclusion(torch.tensor([1.0, 2.0]), 0.5)
    assert chances.tolist() == pytest.approx([1 - golden, golden], abs=1e-6)
    assert inclusion(torch.tensor([3.0, 3.0, 3.0]), 0.2).tolist() == pytest.approx([0.2] * 3)
    assert inclusion(torch.tensor([1.0, 1e6]), 1.0).tolist() == pytest.approx([1.0] * 2)


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
