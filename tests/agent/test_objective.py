"""PPO's terms against hand-computed numbers, torch's distributions and closed forms."""

import math

import pytest
import torch

from data_agent.agent.objective import (
    approximate_kl,
    batch_gae,
    beta_entropy,
    beta_log_prob,
    clip_fraction,
    clipped_surrogate,
    explained_variance,
    normalised,
    one_step_advantage,
)


def test_beta_log_prob_and_entropy_by_hand():
    # Beta(2, 3): B = 1! 2! / 4! = 1/12; density at 1/2 is 12 * 1/2 * 1/4 = 1.5.
    alpha, beta = torch.tensor([2.0]), torch.tensor([3.0])
    log_prob = beta_log_prob(torch.tensor([0.5]), alpha, beta)
    assert log_prob.item() == pytest.approx(math.log(1.5), abs=1e-6)
    assert beta_entropy(torch.ones(1), torch.ones(1)).item() == pytest.approx(0, abs=1e-6)


def test_beta_terms_agree_with_torch_distributions():
    draws = torch.Generator().manual_seed(0)
    alpha = 1 + 20 * torch.rand(50, generator=draws, dtype=torch.float64)
    beta = 1 + 20 * torch.rand(50, generator=draws, dtype=torch.float64)
    action = 0.01 + 0.98 * torch.rand(50, generator=draws, dtype=torch.float64)
    reference = torch.distributions.Beta(alpha, beta)
    torch.testing.assert_close(beta_log_prob(action, alpha, beta), reference.log_prob(action))
    torch.testing.assert_close(beta_entropy(alpha, beta), reference.entropy())


def test_clipped_surrogate_by_hand():
    # ratios 1.5, 0.5, 1.5, 1.1 with eps 0.2:
    # A = +1: min(1.5, 1.2) = 1.2; A = -1: min(-0.5, -0.8) = -0.8;
    # A = -1: min(-1.5, -1.2) = -1.5; A = +2: min(2.2, 2.2) = 2.2. Mean = 1.1 / 4.
    log_ratio = torch.tensor([1.5, 0.5, 1.5, 1.1]).log()
    advantage = torch.tensor([1.0, -1.0, -1.0, 2.0])
    assert clipped_surrogate(log_ratio, advantage, 0.2).item() == pytest.approx(0.275)
    assert clip_fraction(log_ratio, 0.2).item() == pytest.approx(0.75)


def test_clipped_surrogate_refuses_an_outer_product():
    with pytest.raises(AssertionError, match="shapes differ"):
        clipped_surrogate(torch.zeros(4, 1), torch.ones(4), 0.2)


def test_each_sample_gets_its_own_credit():
    log_ratio = torch.zeros(3, requires_grad=True)
    clipped_surrogate(log_ratio, torch.tensor([3.0, -1.0, 0.0]), 0.2).backward()
    torch.testing.assert_close(log_ratio.grad, torch.tensor([1.0, -1 / 3, 0.0]))


def test_normalised_advantage():
    # mean 2, deviations (-1, 0, 1), std = sqrt(2/3)
    scaled = normalised(torch.tensor([1.0, 2.0, 3.0]))
    torch.testing.assert_close(scaled, torch.tensor([-1.0, 0.0, 1.0]) / math.sqrt(2 / 3))


def test_gamma_zero_is_the_one_step_advantage():
    reward, value = torch.randn(8), torch.randn(8)
    step = torch.arange(8) // 2
    gae = batch_gae(reward, value, step, gamma=0.0, gae_lambda=0.95)
    torch.testing.assert_close(gae, one_step_advantage(reward, value))


def test_gae_by_hand():
    # Two batches of two rows, gamma 0.5, lambda 0.5. Values: batch 0 (1, 3), batch 1 (2, 4).
    # Batch 1, successor mean 3: delta = (1 + 1.5 - 2, 0 + 1.5 - 4) = (0.5, -2.5), mean -1.
    # Batch 0, successor mean 3: delta = (2 + 1.5 - 1, 0 + 1.5 - 3) = (2.5, -1.5),
    # plus 0.25 * -1 = (2.25, -1.75). Rows are interleaved on purpose.
    gae = batch_gae(
        torch.tensor([2.0, 1.0, 0.0, 0.0]),
        torch.tensor([1.0, 2.0, 3.0, 4.0]),
        torch.tensor([7, 9, 7, 9]),
        gamma=0.5,
        gae_lambda=0.5,
    )
    torch.testing.assert_close(gae, torch.tensor([2.25, 0.5, -1.75, -2.5]))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("gae_lambda", [0.0, 0.5, 0.95, 1.0])
@pytest.mark.parametrize("num_batches", [1, 2, 7])
def test_gae_with_a_constant_critic_has_a_closed_form(gamma, gae_lambda, num_batches):
    # V = v and r = rho everywhere: delta = rho + (gamma - 1) v for every row, and the advantage
    # with n batches to go is delta (1 + q + ... + q^(n-1)), q = gamma lambda.
    v, rho = 0.7, 0.3
    step = torch.arange(num_batches).repeat_interleave(3)
    constant = torch.full((len(step),), 1.0, dtype=torch.float64)
    gae = batch_gae(rho * constant, v * constant, step, gamma=gamma, gae_lambda=gae_lambda)
    delta, q = rho + (gamma - 1) * v, gamma * gae_lambda
    expected = [delta * sum(q**i for i in range(num_batches - t)) for t in step.tolist()]
    torch.testing.assert_close(gae, torch.tensor(expected, dtype=torch.float64))


def test_diagnostics_by_hand():
    # mean(rho - 1 - log rho) of rho = (1, e): (0 + (e - 2)) / 2
    kl = approximate_kl(torch.tensor([0.0, 1.0]))
    assert kl.item() == pytest.approx((math.e - 2) / 2)
    target = torch.tensor([1.0, 2.0, 3.0])
    assert explained_variance(target, target).item() == pytest.approx(1)
    assert explained_variance(torch.zeros(3), target).item() == pytest.approx(0)
