"""What is remembered of each sample: drift, draws, memory."""

import pytest
import torch

from data_agent.agent.table import ActionTable, ParameterTable, _logit_normal_draws


def parameters(*rows):
    return torch.tensor(rows, dtype=torch.float32)


def test_a_visited_sample_holds_its_policy_and_the_others_drift_to_the_prior():
    table = ParameterTable(3, seed=0, drift=0.5)
    table.merge(torch.tensor([0, 1]), parameters([9.0, 1.0], [1.0, 9.0]))
    table.merge(torch.tensor([0]), parameters([9.0, 1.0]))
    # Sample 1 went half the way from (1, 9) to (1, 1): (1, 5).
    expected = torch.tensor([0.9, 1 / 6, 0.5])
    torch.testing.assert_close(table.expected_actions(), expected, rtol=1e-3, atol=1e-3)


def test_redraw_is_a_function_of_epoch_and_seed():
    table = ParameterTable(100, seed=0, drift=0.0)
    assert torch.equal(table.scores(3), table.scores(3))
    assert not torch.equal(table.scores(3), table.scores(4))
    assert not torch.equal(table.scores(3), ParameterTable(100, seed=1, drift=0.0).scores(3))


def test_redraw_follows_the_beta_distribution():
    table = ParameterTable(200_000, seed=0, drift=0.0)
    everyone = torch.arange(200_000)
    table.merge(everyone, parameters([2.0, 6.0]).expand(200_000, 2))
    draws = table.scores(0)
    # Beta(2, 6): mean 1/4, variance 12 / (64 * 9) = 1/48
    assert draws.mean().item() == pytest.approx(0.25, abs=2e-3)
    assert draws.var().item() == pytest.approx(1 / 48, rel=0.02)


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (2.0, 6.0), (30.0, 3.0)])
def test_the_logit_normal_has_the_moments_of_the_logit_of_a_beta_variable(alpha, beta):
    count = 200_000
    half = torch.ones(count, dtype=torch.float16)
    logits = _logit_normal_draws(alpha * half, beta * half, torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    exact = torch.distributions.Beta(alpha, beta).sample((count,)).double().logit()
    assert logits.mean().item() == pytest.approx(exact.mean().item(), abs=0.02)
    assert logits.std().item() == pytest.approx(exact.std().item(), rel=0.02)


def test_a_sample_costs_at_most_eight_bytes():
    for table in (ParameterTable(1000, seed=0, drift=0.0), ActionTable(1000)):
        tensors = [v for v in table.state_dict().values() if isinstance(v, torch.Tensor)]
        assert sum(t.numel() * t.element_size() for t in tensors) <= 8 * 1000


@pytest.mark.parametrize(
    "make", [lambda size: ParameterTable(size, seed=0, drift=0.1), ActionTable]
)
def test_nothing_is_held_before_the_first_visit_and_the_prior_is_read(make):
    table = make(100)
    assert not any(isinstance(v, torch.Tensor) for v in table.state_dict().values())
    assert (table.expected_actions() == 0.5).all()
    assert len(table.scores(0)) == 100
    visited = make(100)
    visited.merge(torch.arange(1), visited.rows(*torch.tensor([[3.0], [1.0], [0.75]])))
    table.load_state_dict(visited.state_dict())
    assert table.expected_actions()[0] == 0.75
    table.load_state_dict(make(100).state_dict())
    assert table.expected_actions()[0] == 0.5


def test_the_drift_that_is_looked_up_is_the_one_that_is_computed():
    table = ParameterTable(5000, seed=0, drift=0.02)
    values = 1 + 50 * torch.rand(5000, 2, generator=torch.Generator().manual_seed(0)).square()
    table.merge(torch.arange(5000), values)
    before = table.state_dict()["parameters"]
    table.merge(torch.arange(0), torch.empty(0, 2))
    assert torch.equal(table.state_dict()["parameters"], before + 0.02 * (1 - before))


def test_the_papers_ranking_keeps_the_last_action():
    table = ActionTable(3)
    table.merge(torch.tensor([1]), torch.tensor([[0.9]]))
    assert table.scores(0).tolist() == table.scores(7).tolist() == pytest.approx([0.5, 0.9, 0.5])
