"""PPO's terms against hand-computed numbers, torch's distributions and closed forms."""

import math

import pytest
import torch

from data_agent.agent.adam import Adam
from data_agent.agent.networks import ActorCritic, concentration
from data_agent.agent.objective import (
    approximate_kl,
    batch_gae,
    beta_entropy,
    beta_entropy_gradient,
    beta_log_prob,
    beta_log_prob_gradient,
    clip_fraction,
    clipped_surrogate,
    clipped_surrogate_gradient,
    explained_variance,
    log_both,
    normalised,
    one_step_advantage,
    ppo_gradient,
)


def test_beta_log_prob_and_entropy_by_hand():
    # Beta(2, 3): B = 1! 2! / 4! = 1/12; density at 1/2 is 12 * 1/2 * 1/4 = 1.5.
    log_prob = beta_log_prob(log_both(torch.tensor([0.5])), torch.tensor([[2.0, 3.0]]))
    assert log_prob.item() == pytest.approx(math.log(1.5), abs=1e-6)
    assert beta_entropy(torch.ones(1, 2)).item() == pytest.approx(0, abs=1e-6)


def test_beta_terms_agree_with_torch_distributions():
    draws = torch.Generator().manual_seed(0)
    alpha = 1 + 20 * torch.rand(50, generator=draws, dtype=torch.float64)
    beta = 1 + 20 * torch.rand(50, generator=draws, dtype=torch.float64)
    action = 0.01 + 0.98 * torch.rand(50, generator=draws, dtype=torch.float64)
    reference = torch.distributions.Beta(alpha, beta)
    parameters = torch.stack([alpha, beta], 1)
    log_prob = beta_log_prob(log_both(action), parameters)
    torch.testing.assert_close(log_prob, reference.log_prob(action))
    torch.testing.assert_close(beta_entropy(parameters), reference.entropy())


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


# Gradients in closed form against autograd, in float64.

EXACT = {"rtol": 0, "atol": 1e-12}


def rows(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_autograd(function, at):
    at = at.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(function(at), at)
    return gradient


def test_the_surrogates_gradient_is_autograds_in_every_corner_of_the_clip():
    advantage, log_ratio = rows(4000), rows(4000, seed=1)
    log_ratio[0], advantage[1] = 0, 0  # at the start of an update, and without a credit
    for clip in (0.05, 0.2, 1.0):
        expected = by_autograd(lambda at, c=clip: clipped_surrogate(at, advantage, c), log_ratio)
        ours = clipped_surrogate_gradient(log_ratio, advantage, clip)
        torch.testing.assert_close(ours, expected, **EXACT)
        assert 0 < (ours == 0).double().mean() < 1


def test_gradients_of_log_density_and_entropy_are_autograds():
    parameters, logs = 1 + rows(500, 2).exp(), log_both(rows(500, seed=1).sigmoid())
    for ours, function in (
        (beta_log_prob_gradient(logs, parameters), lambda at: beta_log_prob(logs, at).sum()),
        (beta_entropy_gradient(parameters), lambda at: beta_entropy(at).sum()),
    ):
        torch.testing.assert_close(ours, by_autograd(function, parameters), **EXACT)


def loss_of(outputs, logs, old, advantage, target, clip, entropy_bonus):
    """PPO's loss by its definition."""
    parameters = concentration(outputs[0])
    surrogate = clipped_surrogate(beta_log_prob(logs, parameters) - old, advantage, clip)
    entropy = beta_entropy(parameters).mean()
    return -surrogate - entropy_bonus * entropy + (outputs[1, :, 0] - target).square().mean()


@pytest.mark.parametrize("entropy_bonus", [0.0, 0.01])
@pytest.mark.parametrize(("width", "hidden"), [(5, 16), (24, 128), (1, 1)])
def test_the_gradient_of_all_weights_is_autograds(width, hidden, entropy_bonus):
    size, host = 256, torch.device("cpu")
    networks = ActorCritic(width, hidden, seed=0, dtype=torch.float64, device=host)
    networks.load(networks.weights + 0.05 * rows(len(networks.weights)))  # no bias stays at zero
    networks.layers[-1][0][1, :, 1] = networks.layers[-1][1][1, :, 1] = 0  # of no output
    state, logs = rows(size, width), log_both(rows(size, seed=1).sigmoid())
    advantage, target = rows(size, seed=2), rows(size, seed=3)
    settings = {"clip": 0.2, "entropy_bonus": entropy_bonus}
    outputs = networks.forward(state)
    assert (outputs[-1][1, :, 1] == 0).all()
    old = beta_log_prob(logs, concentration(outputs[-1][0])) + 0.3 * rows(size, seed=4)

    both = torch.stack([target, torch.zeros_like(target)], 1)
    upward = ppo_gradient(outputs[-1], logs, old, advantage, both, **settings)
    ours = networks.gradient(outputs, upward).clone()

    start = networks.weights.clone()

    def loss(weights):
        networks.load(weights)
        values = state.expand(2, -1, -1)
        for weight, bias in networks.layers[:-1]:
            values = torch.relu(torch.baddbmm(bias, values, weight))
        weight, bias = networks.layers[-1]
        outputs = torch.baddbmm(bias, values, weight)
        return loss_of(outputs, logs, old, advantage, target, **settings)

    torch.testing.assert_close(ours, by_autograd(loss, start), **EXACT)
    networks.load(start)
    torch.testing.assert_close(
        networks.concentration(state), concentration(networks.forward(state)[-1][0]), **EXACT
    )


def test_our_adam_is_torchs():
    size, host = 50, torch.device("cpu")
    ours, adam = rows(size), Adam(size, weight_decay=5e-4, dtype=torch.float64, device=host)
    theirs = ours.clone().requires_grad_()
    optimizer = torch.optim.Adam([theirs], eps=1e-5, weight_decay=5e-4)
    for step in range(20):
        gradient = rows(size, seed=step) * 10 ** (step % 5 - 2)
        optimizer.param_groups[0]["lr"] = learning_rate = 1e-3 * (1 - step / 20)
        theirs.grad = gradient.clone()
        optimizer.step()
        adam.step(ours, gradient, learning_rate)
    torch.testing.assert_close(ours, theirs.detach(), **EXACT)
