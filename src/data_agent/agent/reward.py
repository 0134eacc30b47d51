"""The reward: what makes a sample worth training on. Pure functions, one for each equation.

Source: "Data Agent: Learning to Select Data via End-to-End Dynamic Optimization" (ICML 2026,
https://arxiv.org/abs/2603.07433), the sections on the composite reward and its adaptive weight.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from data_agent.selecting.feedback import Feedback, MissingLogitsError

CLIP_QUANTILE = 0.95
EPS = 1e-8


def difficulty(feedback: Feedback) -> Tensor:
    """Loss-based difficulty d_i: losses clipped at their batch's 95 % quantile, scaled to [0, 1].

    d_i = (min(l_i, q) - min l) / (max min(l, q) - min l); zero where all losses are equal.

    Args:
        feedback: a batch; reads `losses` `[B]`.

    Returns:
        Float `[B]` in [0, 1].
    """
    return relative_losses(_working(feedback.losses))


def relative_losses(losses: Tensor) -> Tensor:
    """`difficulty` of several batches of one size: float `[..., B]`, each row a batch.

    The quantile is interpolated between the two sorted losses next to it, and is the largest
    clipped loss.
    """
    ordered = losses.sort(-1).values
    below, share = divmod(CLIP_QUANTILE * (losses.shape[-1] - 1), 1)
    lower, upper = ordered[..., int(below)], ordered[..., math.ceil(below + share)]
    high = torch.lerp(lower, upper, share).unsqueeze(-1)
    low = ordered[..., :1]
    return (torch.minimum(losses, high) - low) / (high - low).clamp_min(EPS)


def uncertainty(feedback: Feedback) -> Tensor:
    """Confidence-based uncertainty c_i: entropy of softmax(z_i) over log C.

    c_i = -sum_j p_ij log p_ij / log C. A task's own `feedback.uncertainty` goes first. (One logit a
    sample is `[B, 2]` by the time it comes here.)

    Args:
        feedback: a batch; reads `uncertainty` `[B]`, else `logits` `[B, C]`.

    Returns:
        Float `[B]` in [0, 1].

    Raises:
        MissingLogitsError: neither of them came.
    """
    if feedback.uncertainty is not None:
        return _working(feedback.uncertainty)
    logits = _working(require_logits(feedback))
    log_p = torch.log_softmax(logits, dim=1)
    entropy = -(log_p.exp() * log_p).sum(1)
    return (entropy / math.log(logits.shape[1])).clamp(0, 1)


def require_logits(feedback: Feedback) -> Tensor:
    """The logits, where `uncertainty` is computed from them.

    Raises:
        MissingLogitsError: none came.
    """
    if feedback.logits is None:
        raise MissingLogitsError(
            "uncertainty needs logits: call agent.watch(head), or pass logits=[B, C] ([B] of a "
            "single logit) or uncertainty=[B] in [0, 1] to learn(). A watched head with one output "
            "is read as a logit only where the losses are binary cross entropy of it (without "
            "pos_weight: else pass logits=). A regression has none: reward its loss alone by "
            "DataAgentConfig(signals=(difficulty,)), from data_agent.agent.reward; features=[B, D] "
            "or a watched head are needed there too."
        )
    return feedback.logits


def adaptive_weights(signals: Tensor) -> Tensor:
    """The tuning-free weights: each signal's share of the batch's variance.

    w_1 = Var(d) / (Var(d) + Var(c) + eps), w_2 = 1 - w_1; with S signals w_j = Var_j / (sum Var +
    eps) for j < S and the last weight is the rest. Variances are those of the batch (over B).

    Args:
        signals: float `[S, ..., B]` in [0, 1]; the dimensions between are batches.

    Returns:
        Float `[S, ...]`, non-negative, summing to one over S.
    """
    variance = signals.var(-1, unbiased=False)
    first = variance[:-1] / (variance.sum(0) + EPS)
    return torch.cat([first, 1 - first.sum(0, keepdim=True)])


def utility(signals: Tensor, weights: Tensor) -> Tensor:
    """The combined signal u_i = sum_j w_j s_ij, float `[..., B]` in [0, 1].

    Args:
        signals: float `[S, ..., B]` in [0, 1].
        weights: float `[S, ...]` summing to one over S.
    """
    return (weights.unsqueeze(-1) * signals).sum(0)


def paper_reward(action: Tensor, utility: Tensor) -> Tensor:
    """The paper's reward r_i = a_i u_i, float `[B]`.

    With u >= 0 "keep everything" is optimal: actions saturate at 1 and their ranking is noise.
    """
    return action * utility


def centred_reward(action: Tensor, utility: Tensor, tau: float) -> Tensor:
    """r_i = a_i (u_i - tau), float `[B]`: keeping pays only above the budget's price tau.

    See docs/decisions/0002-centred-reward.md.
    """
    return action * (utility - tau)


def multiplier_step(tau: float, mean_action: float, keep_ratio: float, rate: float) -> float:
    """One dual ascent step on the budget: tau + rate (mean_i E[a_i] - keep_ratio), in [0, 1].

    tau is the Lagrange multiplier of "the mean action is the keep ratio". A price outside of the
    utilities' range says no more than its end, and takes long to come back from.

    Args:
        tau: the multiplier, in [0, 1].
        mean_action: mean of E[a_i] over a uniform sample of the dataset, in [0, 1].
        keep_ratio: the budget, in (0, 1].
        rate: step size, >= 0.
    """
    return min(1.0, max(0.0, tau + rate * (mean_action - keep_ratio)))


def _working(values: Tensor) -> Tensor:
    """Half precisions are widened: quantiles and entropies are not for 8 bits of mantissa."""
    return values if values.dtype == torch.float64 else values.float()
