"""EL2N: keep the samples whose prediction is farthest from the label, early in training.

Paul et al. 2021, "Deep Learning on a Data Diet: Finding Important Examples Early in Training",
https://arxiv.org/abs/2107.07075, definition 2.2: `EL2N(x, y) = E ||p(w_t, x) - y||_2`, the mean
over networks of the error's length a few epochs into training; the highest scores are kept.

The paper scores CIFAR at epoch 20 of 200 with ten networks. How the lab makes the scores, with
fewer, is written in `data_agent_lab.training.scoring`. On noisy labels the highest scores are
the noise; the paper's section 4 drops some of them, which is not done here.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from data_agent.baselines.static import Static


class EL2N(Static):
    """Keeps the highest EL2N scores: `el2n` of a few networks, averaged."""

    name: ClassVar[str] = "el2n"


def el2n(logits: Tensor, labels: Tensor) -> Tensor:
    """||softmax(z_i) - onehot(y_i)||_2, float `[B]` in [0, sqrt(2)].

    Args:
        logits: float `[B, C]`.
        labels: int64 `[B]` in [0, C).
    """
    return prediction_error(logits, labels).norm(dim=1)


def prediction_error(logits: Tensor, labels: Tensor) -> Tensor:
    """softmax(z_i) - onehot(y_i), float `[B, C]`: the cross-entropy's gradient in the logits.

    Args:
        logits: float `[B, C]`.
        labels: int64 `[B]` in [0, C).
    """
    return torch.softmax(logits, dim=1) - F.one_hot(labels, logits.shape[1])
