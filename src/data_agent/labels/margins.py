"""What a model's outputs say about a sample's label: pure functions of logits and labels."""

from __future__ import annotations

import math

import torch
from torch import Tensor

FIRST_SHARE = 0.1  # of the classes: ten classes have one first place, a hundred have ten


def label_margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Probability of a sample's own label less that of the likeliest other one.

    Args:
        logits: float `[B, C]`.
        labels: int64 `[B]` in [0, C).

    Returns:
        float32 `[B]` in [-1, 1].

    Paper:
        Pleiss et al. 2020, "Identifying Mislabeled Data using the Area Under the Margin Ranking",
        https://arxiv.org/abs/2001.10528, equation 1, of probabilities instead of logits.
    """
    probability = torch.softmax(logits.float(), dim=1)
    at = labels.unsqueeze(1)
    others = probability.scatter(1, at, -1.0).amax(1)
    return probability.gather(1, at).squeeze(1) - others


def last_rank_evidence(logits: Tensor, labels: Tensor) -> Tensor:
    """C - 1 where a sample's own label is the least likely, shared among equals, else 0.

    A label that was replaced by one of the C - 1 others at random comes last about once in C - 1
    times, however good the model is, and a right one hardly ever once the model is any good. So
    the mean over a dataset estimates the share of replaced labels, from above.

    Args:
        logits: float `[B, C]`.
        labels: int64 `[B]` in [0, C).

    Returns:
        float32 `[B]` in [0, C - 1].
    """
    own, lowest = logits.gather(1, labels.unsqueeze(1)).squeeze(1), logits.amin(1)
    num_last = (logits == lowest.unsqueeze(1)).sum(1)
    tells = (own == lowest) & (lowest < logits.amax(1))  # equal outputs tell nothing of a label
    return tells.float() * (logits.shape[1] - 1) / num_last


def ranks_first(logits: Tensor, labels: Tensor) -> Tensor:
    """Bool `[B]`: the label is among the likeliest tenth of the classes (at least one).

    A model near chance places a tenth of the labels there, a good one all that are right.

    Args:
        logits: float `[B, C]`.
        labels: int64 `[B]` in [0, C).
    """
    num_first = max(1, math.floor(FIRST_SHARE * logits.shape[1] + 0.5))
    own = logits.gather(1, labels.unsqueeze(1))
    return (logits > own).sum(1) < num_first
