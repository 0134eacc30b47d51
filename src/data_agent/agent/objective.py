"""PPO's terms for a Beta policy. Pure functions, one for each equation.

Sources: Schulman et al. 2017, "Proximal Policy Optimization Algorithms"
(https://arxiv.org/abs/1707.06347); Schulman et al. 2016, "High-Dimensional Continuous Control Using
Generalized Advantage Estimation" (https://arxiv.org/abs/1506.02438); Chou et al. 2017, "Improving
Stochastic Policy Gradients ... Using the Beta Distribution"
(https://proceedings.mlr.press/v70/chou17a.html).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from data_agent.agent.networks import concentration

EPS = 1e-8


def log_beta_function(parameters: Tensor) -> Tensor:
    """Log B(alpha, beta) = log Gamma(alpha) + log Gamma(beta) - log Gamma(alpha + beta), `[B]`.

    Args:
        parameters: `[B, 2]`, (alpha, beta), > 0; the same in all that follows.
    """
    return torch.lgamma(parameters).sum(1) - torch.lgamma(parameters.sum(1))


def log_both(action: Tensor) -> Tensor:
    """(log a, log(1 - a)), `[B, 2]`: all that densities need of actions `[B]` in (0, 1)."""
    return torch.stack([action.log(), torch.log1p(-action)], dim=1)


def beta_log_prob(logs: Tensor, parameters: Tensor) -> Tensor:
    """Log density of Beta(alpha, beta) at a, float `[B]`.

    (alpha - 1) log a + (beta - 1) log(1 - a) - log B(alpha, beta)

    Args:
        logs: `[B, 2]`, `log_both` of the actions.
        parameters: `[B, 2]`.
    """
    kernel = ((parameters - 1) * logs).sum(1)
    return kernel - log_beta_function(parameters)


def beta_entropy(parameters: Tensor) -> Tensor:
    """Differential entropy of Beta(alpha, beta) in nats, `[B]`; 0 for Beta(1, 1), else below.

    log B - (alpha - 1) psi(alpha) - (beta - 1) psi(beta) + (alpha + beta - 2) psi(alpha + beta)
    """
    total = parameters.sum(1)
    own = ((parameters - 1) * torch.digamma(parameters)).sum(1)
    return log_beta_function(parameters) - own + (total - 2) * torch.digamma(total)


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
        step: int64 `[R]` on the host, the batch of each row; batches follow in ascending order.
        gamma: discount in [0, 1].
        gae_lambda: lambda in [0, 1].
    """
    steps, group = step.unique(return_inverse=True)
    member = F.one_hot(group, len(steps)).to(reward, non_blocking=True)
    mean = member / member.sum(0)  # rows @ mean: of each batch
    ahead = torch.arange(len(steps)).unsqueeze(0) - torch.arange(len(steps)).unsqueeze(1)
    discount = ((gamma * gae_lambda) ** ahead.clamp(min=0).double()).triu()
    discount = discount.to(reward, non_blocking=True)
    mean_value = value @ mean
    delta = reward + gamma * (member @ torch.cat([mean_value[1:], mean_value[-1:]])) - value
    mean_advantage = discount @ (delta @ mean)
    behind = torch.cat([mean_advantage[1:], torch.zeros_like(mean_advantage[:1])])
    return delta + gamma * gae_lambda * (member @ behind)


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


def clipped_surrogate_gradient(log_ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """Gradient of `clipped_surrogate` in the log ratios, `[R]`.

    rho_i A_i / R where the first of the two terms is the smaller one or equal, else 0.
    """
    ratio = log_ratio.exp()
    gain = ratio * advantage
    counts = gain <= ratio.clamp_(1 - clip, 1 + clip).mul_(advantage)
    return gain.mul_(counts).div_(gain.shape[0])


def beta_log_prob_gradient(logs: Tensor, parameters: Tensor) -> Tensor:
    """Gradient of `beta_log_prob` in (alpha, beta), `[B, 2]`.

    log a - psi(alpha) + psi(alpha + beta), and with log(1 - a) and psi(beta) the other.
    """
    total = parameters.sum(1, keepdim=True)
    return logs - torch.digamma(parameters) + torch.digamma(total)


def beta_entropy_gradient(parameters: Tensor) -> Tensor:
    """Gradient of `beta_entropy` in (alpha, beta), `[B, 2]`.

    (alpha + beta - 2) psi_1(alpha + beta) - (alpha - 1) psi_1(alpha), and with beta the other.
    """
    total = parameters.sum(1, keepdim=True)
    own = (parameters - 1) * torch.polygamma(1, parameters)
    return (total - 2) * torch.polygamma(1, total) - own


def ppo_gradient(
    outputs: Tensor,
    logs: Tensor,
    old_log_prob: Tensor,
    advantage: Tensor,
    target: Tensor,
    *,
    clip: float,
    entropy_bonus: float,
) -> Tensor:
    """Gradient of PPO's loss (PPO eq. 9, to be minimised) in the networks' outputs, `[2, R, 2]`.

    -clipped_surrogate - c mean_i H(Beta(alpha_i, beta_i)) + mean_i (V_i - target_i)^2, with
    (alpha, beta) = 1 + softplus(outputs[0]), whose derivative is the sigmoid, and V =
    outputs[1, :, 0].

    Args:
        outputs: `[2, R, 2]`, of actor and critic; the critic's second one is zero.
        logs: `[R, 2]`, `log_both` of the actions.
        old_log_prob: `[R]`, of the actions under the policy that took them.
        advantage: `[R]`.
        target: `[R, 2]`, what the critic is to say, and zeros.
        clip: eps, > 0.
        entropy_bonus: c, >= 0.
    """
    (of_actor, of_critic), size = outputs.unbind(0), logs.shape[0]
    parameters = concentration(of_actor)
    log_ratio = beta_log_prob(logs, parameters) - old_log_prob
    credit = clipped_surrogate_gradient(log_ratio, advantage, clip).unsqueeze(1)
    upward = beta_log_prob_gradient(logs, parameters).mul_(credit)
    if entropy_bonus:
        upward.add_(beta_entropy_gradient(parameters), alpha=entropy_bonus / size)
    downward = upward.mul_(torch.sigmoid(of_actor)).neg_()
    return torch.stack([downward, (of_critic - target).mul_(2 / size)])


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
