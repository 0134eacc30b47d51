"""PPO's terms for a Beta policy. Pure functions, one for each equation.

Sources: Schulman et al. 2017, "Proximal Policy Optimization Algorithms"
(https://arxiv.org/abs/1707.06347); Schulman et al. 2016, "High-Dimensional Continuous Control Using
Generalized Advantage Estimation" (https://arxiv.org/abs/1506.02438); Chou et al. 2017, "Improving
Stochastic Policy Gradients ... Using the Beta Distribution"
(https://proceedings.mlr.press/v70/chou17a.html).
"""

from __future__ import annotations

import torch
from torch import Tensor

EPS = 1e-8


def log_beta_function(alpha: Tensor, beta: Tensor) -> Tensor:
    """Log B(alpha, beta) = log Gamma(alpha) + log Gamma(beta) - log Gamma(alpha + beta)."""
    return torch.lgamma(alpha) + torch.lgamma(beta) - torch.lgamma(alpha + beta)


def beta_log_prob(action: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """Log density of Beta(alpha, beta) at `action`, float `[B]`.

    (alpha - 1) log a + (beta - 1) log(1 - a) - log B(alpha, beta)

    Args:
        action: `[B]` in (0, 1).
        alpha: `[B]`, > 0.
        beta: `[B]`, > 0.
    """
    kernel = (alpha - 1) * action.log() + (beta - 1) * torch.log1p(-action)
    return kernel - log_beta_function(alpha, beta)


def beta_entropy(alpha: Tensor, beta: Tensor) -> Tensor:
    """Differential entropy of Beta(alpha, beta) in nats, `[B]`; 0 for Beta(1, 1), else below.

    log B - (alpha - 1) psi(alpha) - (beta - 1) psi(beta) + (alpha + beta - 2) psi(alpha + beta)
    """
    total = alpha + beta
    return (
        log_beta_function(alpha, beta)
        - (alpha - 1) * torch.digamma(alpha)
        - (beta - 1) * torch.digamma(beta)
        + (total - 2) * torch.digamma(total)
    )


def one_step_advantage(reward: Tensor, value: Tensor) -> Tensor:
    """A_i = r_i - V(s_i), `[R]`: each choice stands for itself (a contextual bandit)."""
    return reward - value


def batch_gae(
    reward: Tensor, value: Tensor, step: Tensor, *, gamma: float, gae_lambda: float
) -> Tensor:
    """Generalized advantages where time runs from batch to batch, `[R]`.

    Samples of one batch have no successors of their own; the next state is a sample of the next
    batch, so its value and advantage are replaced by that batch's means:

        delta_ti = r_ti + gamma mean_j V(s_t+1,j) - V(s_ti)
        A_ti     = delta_ti + gamma lambda mean_j A_t+1,j

    The last batch's successor is not there yet; its own mean value stands for it, and no
    advantage comes from behind. gamma = 0 gives `one_step_advantage`.

    Args:
        reward: `[R]`.
        value: `[R]`.
        step: int64 `[R]`, the batch each row belongs to; batches follow in ascending order.
        gamma: discount in [0, 1].
        gae_lambda: lambda in [0, 1].
    """
    advantage = torch.empty_like(reward)
    steps = torch.unique(step).flip(0)
    next_value = value[step == steps[0]].mean()
    next_advantage = torch.zeros_like(next_value)
    for now in steps:
        rows = step == now
        delta = reward[rows] + gamma * next_value - value[rows]
        advantage[rows] = delta + gamma * gae_lambda * next_advantage
        next_value, next_advantage = value[rows].mean(), advantage[rows].mean()
    return advantage


def normalised(advantage: Tensor) -> Tensor:
    """(A - mean A) / std A, `[R]`: subtracting a constant is an unbiased baseline."""
    return (advantage - advantage.mean()) / (advantage.std(unbiased=False) + EPS)


def clipped_surrogate(log_ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """PPO's objective, to be maximised (PPO eq. 7): a scalar.

    mean_i min(rho_i A_i, clamp(rho_i, 1 - eps, 1 + eps) A_i) with rho_i = exp(log_ratio_i)

    Args:
        log_ratio: `[R]`, log pi_new(a_i | s_i) - log pi_old(a_i | s_i).
        advantage: `[R]`, the same shape: one credit for each sample.
        clip: eps, > 0.
    """
    if log_ratio.shape != advantage.shape:
        # [R, 1] against [R] would broadcast to an outer product: every sample gets every credit.
        raise AssertionError(f"shapes differ: {log_ratio.shape} and {advantage.shape}")
    ratio = log_ratio.exp()
    return torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage).mean()


def approximate_kl(log_ratio: Tensor) -> Tensor:
    """KL(old || new) by the low-variance estimator mean(rho - 1 - log rho): a scalar, >= 0.

    Schulman 2020, "Approximating KL Divergence" (http://joschu.net/blog/kl-approx.html), k3.
    """
    return (log_ratio.exp() - 1 - log_ratio).mean()


def clip_fraction(log_ratio: Tensor, clip: float) -> Tensor:
    """Share of rows whose ratio left [1 - eps, 1 + eps]: a scalar in [0, 1]."""
    return ((log_ratio.exp() - 1).abs() > clip).to(log_ratio.dtype).mean()


def explained_variance(prediction: Tensor, target: Tensor) -> Tensor:
    """1 - Var(target - prediction) / Var(target): 1 is perfect, 0 is a constant, below is worse."""
    residual = (target - prediction).var(unbiased=False)
    return 1 - residual / target.var(unbiased=False).clamp_min(EPS)
