"""GraNd: keep the samples with the longest loss gradient, early in training.

Paul et al. 2021, "Deep Learning on a Data Diet: Finding Important Examples Early in Training",
https://arxiv.org/abs/2107.07075, definition 2.1: `GraNd(x, y) = E ||grad_w l(p(w_t, x), y)||_2`,
the mean over networks of the length of the gradient in all weights; the highest scores are kept.

Here the gradient is that of the last layer, weights and bias, exactly: with features h it is the
outer product `(p - y)(h, 1)^T`, whose length is `||p - y|| ||(h, 1)||`. The full gradient takes a
backward pass for each single sample; the last layer's needs a forward pass, and makes the score
EL2N times the feature's length. `prepare` trains two networks for a tenth of the run's epochs.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from data_agent.baselines.el2n import el2n
from data_agent.baselines.short_training import mean_score
from data_agent.baselines.static import Static
from data_agent.budget.schedule import SelectionSchedule
from data_agent.selecting.proxy import Proxy


class GraNd(Static):
    """Keeps the highest GraNd scores: `last_layer_grand` of a few networks, averaged."""

    name: ClassVar[str] = "grand"

    @classmethod
    def prepare(cls, proxy: Proxy, budget: SelectionSchedule) -> dict[str, Tensor]:
        """The mean score of two networks."""
        return {"scores": mean_score(proxy, budget, last_layer_grand)}


def last_layer_grand(logits: Tensor, labels: Tensor, features: Tensor) -> Tensor:
    """||p_i - y_i||_2 sqrt(||h_i||^2 + 1), float `[B]`, 0 or more.

    Args:
        logits: float `[B, C]`, of a linear last layer with a bias.
        labels: int64 `[B]` in [0, C).
        features: float `[B, D]`, its input.
    """
    return el2n(logits, labels) * (features.square().sum(1) + 1).sqrt()
