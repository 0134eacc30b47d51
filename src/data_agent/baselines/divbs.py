"""DivBS: of each batch, the samples that together point where the whole batch points.

Hong et al. 2024, "Diversified Batch Selection for Training Acceleration" (ICML),
https://arxiv.org/abs/2406.04872, and its code, https://github.com/Feng-Hong/DivBS
(methods/DivBS.py). With g_i a sample's gradient in the last layer's weights and g_B their mean, a
subset is good if the parts of its gradients that are orthogonal to each other explain g_B
("orthogonalised representativeness"). Greedily: take the sample whose gradient correlates most with
what is left of g_B, remove that direction from what is left, and go on.

`g_i = (p_i - y_i) h_i^T` is never formed: the greedy needs inner products only.

Departures. The paper's efficient variant takes the highest correlation; its code draws in
proportion to them, and takes gradients in evaluation mode. Here the highest is taken, of whatever
logits and features the loop passes, and when nothing of g_B is left the next samples of the pool,
which is in random order.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from data_agent.baselines.el2n import prediction_error
from data_agent.errors import InputError
from data_agent.selecting.batch_selector import BatchSelector
from data_agent.selecting.feedback import Feedback

_TOLERANCE = 1e-6  # of the largest: below it a direction counts as explained


class DivBS(BatchSelector):
    """Needs logits, labels and features of the pool: `select_batch(Feedback(..., features=h))`."""

    name = "divbs"
    needs_logits = True

    def score(self, feedback: Feedback) -> Tensor:
        """Minus the position in the greedy order, float `[P]`; minus P for those behind it."""
        logits, labels, features = feedback.logits, feedback.labels, feedback.features
        if logits is None or labels is None or features is None:
            parts = {"logits": logits, "labels": labels, "features": features}
            missing = [name for name, value in parts.items() if value is None]
            raise InputError(
                f"divbs compares gradients of the last layer, and no {' and '.join(missing)} came: "
                "keep = selector.select_batch(Feedback(index, losses, logits=logits, "
                "features=features, labels=labels)), features being the last layer's input."
            )
        gram = last_layer_gram(logits.float(), labels.to(logits.device), features.float())
        size = len(feedback)
        count = min(size, math.ceil(self.keep_ratio * size) + 1)  # a quota may be one more
        scores = torch.full((size,), -float(size), device=gram.device)
        scores[representative_order(gram, count)] = -torch.arange(count, device=gram.device).float()
        return scores


def last_layer_gram(logits: Tensor, labels: Tensor, features: Tensor) -> Tensor:
    """<g_i, g_j> = <p_i - y_i, p_j - y_j> <h_i, h_j>, float `[P, P]`.

    Of logits `[P, C]`, int64 labels `[P]` and features `[P, D]`.
    """
    error = prediction_error(logits, labels)
    return (error @ error.T) * (features @ features.T)


def representative_order(gram: Tensor, count: int) -> Tensor:
    """The greedy order, int64 `[count]`, from the gradients' inner products `[P, P]`.

    With u the taken gradient's direction orthogonal to those before, what is left of g_B loses its
    part along u: `<g_i, left> -= <g_i, u> <u, left>`, and all inner products theirs. No step waits
    for the host.
    """
    correlation = gram.mean(1)  # with g_B
    smallest = _TOLERANCE * correlation.abs().max()
    flattest = _TOLERANCE * gram.diagonal().max()
    is_taken = torch.zeros(len(gram), dtype=torch.bool, device=gram.device)
    order = torch.empty(count, dtype=torch.int64, device=gram.device)
    for position in range(count):
        strength = correlation.abs()
        strength = strength.masked_fill(strength <= smallest, 0).masked_fill(is_taken, -1)
        best = (strength == strength.max()).int().argmax(keepdim=True)  # the first of equals
        order[position] = best[0]
        is_taken[best] = True
        column = gram.index_select(1, best)[:, 0]
        length = column.index_select(0, best)  # squared, of its orthogonal part
        along = torch.where(length > flattest, column / length, torch.zeros_like(column))
        correlation = correlation - along * correlation.index_select(0, best)
        gram = gram - along[:, None] * column[None, :]
    return order
