"""EL2N: keep the samples whose prediction is farthest from the label, early in training.

Paul et al. 2021, "Deep Learning on a Data Diet: Finding Important Examples Early in Training",
https://arxiv.org/abs/2107.07075, definition 2.2: `EL2N(x, y) = E ||p(w_t, x) - y||_2`, the mean
over networks.

Departures. The paper scores CIFAR at epoch 20 of 200 with ten networks, here it is two and a tenth
of the run's epochs. On noisy labels the highest scores are the noise; the paper's section 4 drops
some of them, which is not done here.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from data_agent.baselines.static import Static, mean_score
from data_agent.budget.schedule import SelectionSchedule
from data_agent.selecting.proxy import Proxy


class EL2N(Static):
    """Keeps the highest EL2N scores."""

    name = "el2n"

    @classmethod
    def prepare(cls, proxy: Proxy, budget: SelectionSchedule) -> dict[str, Tensor]:
        """The mean score of two networks."""
        return {"scores": mean_score(proxy, budget, lambda logits, labels, _: el2n(logits, labels))}


def el2n(logits: Tensor, labels: Tensor) -> Tensor:
    """||softmax(z_i) - onehot(y_i)||_2, float `[B]` in [0, sqrt(2)], of the same."""
    return prediction_error(logits, labels).norm(dim=1)


def prediction_error(logits: Tensor, labels: Tensor) -> Tensor:
    """softmax(z_i) - onehot(y_i), float `[B, C]`: the cross-entropy's gradient in the logits.

    Of logits `[B, C]` and int64 labels `[B]` in [0, C); zero for a negative label, which stands
    for none.
    """
    error = torch.softmax(logits, dim=1) - F.one_hot(labels.clamp(min=0), logits.shape[1])
    return error * (labels >= 0).unsqueeze(1)
