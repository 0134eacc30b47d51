"""GraNd: keep the samples with the longest loss gradient, early in training.

Paul et al. 2021, "Deep Learning on a Data Diet: Finding Important Examples Early in Training",
https://arxiv.org/abs/2107.07075, definition 2.1: `GraNd(x, y) = E ||grad_w l(p(w_t, x), y)||_2`,
the mean over networks, of the gradient in all weights.

Departures. That gradient takes a backward pass for each single sample; here it is the one of the
last layer, weights and bias, exactly: with features h the outer product `(p - y)(h, 1)^T`. So the
score is EL2N times the feature's length.
"""

from __future__ import annotations

from torch import Tensor

from data_agent.baselines.el2n import el2n
from data_agent.baselines.static import Static, mean_score
from data_agent.budget.schedule import SelectionSchedule
from data_agent.selecting.proxy import Proxy


class GraNd(Static):
    """Keeps the highest GraNd scores of the last layer."""

    name = "grand"

    @classmethod
    def prepare(cls, proxy: Proxy, budget: SelectionSchedule) -> dict[str, Tensor]:
        """The mean score of two networks, trained for a tenth of the run's epochs."""
        return {"scores": mean_score(proxy, budget, last_layer_grand)}


def last_layer_grand(logits: Tensor, labels: Tensor, features: Tensor) -> Tensor:
    """||p_i - y_i||_2 sqrt(||h_i||^2 + 1), float `[B]`, 0 or more.

    Of logits `[B, C]` of a linear layer with a bias, int64 labels `[B]`, its input `[B, D]`.
    """
    return el2n(logits, labels) * (features.square().sum(1) + 1).sqrt()
