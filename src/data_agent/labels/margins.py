"""What a model's outputs say about a sample's label: pure functions of logits and labels."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

FIRST_SHARE = 0.1  # of the classes: ten classes have one first place, a hundred have ten


class Verdict(NamedTuple):
    """What the outputs say about each label.

    Args:
        margin: float32 `[B]` in [-1, 1], see `label_margin`.
        last: float32 `[B]` in [0, 1]: 1 where the label is the least likely of all, shared among
            equals, else 0. Where all outputs are equal it is 0: they tell nothing.
        ranks_first: bool `[B]`: the label is among the likeliest tenth of the classes (at least
            one). A model near chance places a tenth of the labels there, a good one all right ones.
    """

    margin: Tensor
    last: Tensor
    ranks_first: Tensor


def judge(logits: Tensor, labels: Tensor) -> Verdict:
    """Compare each sample's label with all others.

    A label that was replaced by one of the C - 1 others at random comes last about once in C - 1
    times, however good the model is, and a right one hardly ever once the model is any good. So
    C - 1 times the mean of `last` over a dataset estimates the share of replaced labels, from
    above.

    Args:
        logits: float `[B, C]`.
        labels: int64 `[B]` in [0, C).
    """
    num_classes = logits.shape[1]
    own = logits.gather(1, labels.unsqueeze(1))
    num_above, num_below = (logits > own).sum(1), (logits < own).sum(1)
    is_last = (num_below == 0) & (num_above > 0)
    return Verdict(
        label_margin(logits, labels),
        is_last / (num_classes - num_above),
        num_above < num_first(num_classes),
    )


def num_first(num_classes: int) -> int:
    """How many of the likeliest classes count as first places."""
    return max(1, math.floor(FIRST_SHARE * num_classes + 0.5))


def comes_late(logits: Tensor, labels: Tensor) -> Tensor:
    """Bool `[B]`: whether a label is among the least likely tenth of the classes, see `num_first`.

    A wrong label that was drawn at random is so in `num_first(C) / (C - 1)` of the cases. Of equal
    outputs none is late.

    Args:
        logits: float `[B, C]`.
        labels: int64 `[B]` in [0, C).
    """
    num_classes = logits.shape[1]
    num_above = (logits > logits.gather(1, labels.unsqueeze(1))).sum(1)
    return num_above >= num_classes - num_first(num_classes)


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
    probability = torch.softmax(logits, dim=1, dtype=torch.float32)
    at = labels.unsqueeze(1)
    others = probability.scatter(1, at, -1.0).amax(1)
    return probability.gather(1, at).squeeze(1) - others
