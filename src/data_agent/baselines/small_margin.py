"""Train on the samples that lay closest to the decision at their last visit, on either side of it.

Margin sampling is Scheffer et al. 2001, "Active Hidden Markov Models for Information Extraction",
https://doi.org/10.1007/3-540-44816-0_31: the difference of the two most probable classes. The
difference is of probabilities, not of logits, so it does not grow with their scale.

Departures. The paper's margin is for data without labels. Where the feedback holds them it is the
label's own: the same for a sample that is classified right; for one that is classified wrong it is
what the label lacks, so confidently wrong samples (often mislabelled ones) go last.
"""

from __future__ import annotations

import torch
from torch import Tensor

from data_agent.baselines.scored import Scored, logits_of
from data_agent.selecting.feedback import Feedback


class SmallMargin(Scored):
    """The score is minus the margin: `learn(..., labels=labels)` makes it the label's."""

    name = "small-margin"
    reads = ("logits", "labels")
    needs_logits = True

    def examine(self, feedback: Feedback) -> Feedback:
        """Logits must come."""
        logits_of(feedback, self.name)
        return feedback

    def score(self, feedback: Feedback) -> Tensor:
        """-m_i, float `[B]` in [-1, 0]."""
        logits = logits_of(feedback, self.name)
        if feedback.labels is None:
            return -top_margin(logits)
        return -distance_to_decision(logits, feedback.labels)


def top_margin(logits: Tensor) -> Tensor:
    """p_(1) - p_(2), the two highest of softmax(z_i), float `[B]` in [0, 1], of logits `[B, C]`."""
    first, second = torch.softmax(logits, dim=1).topk(2, dim=1).values.unbind(1)
    return first - second


def distance_to_decision(logits: Tensor, labels: Tensor) -> Tensor:
    """|p_y - max_{j != y} p_j| of softmax(z_i), float `[B]` in [0, 1], of logits `[B, C]`.

    Labels are integers `[B]`; one that is no class (an ignored sample) has p_y = 0.
    """
    p = torch.softmax(logits, dim=1)
    is_label = labels.to(p.device).unsqueeze(1) == torch.arange(p.shape[1], device=p.device)
    own = p.masked_fill(~is_label, 0).sum(1)
    other = p.masked_fill(is_label, 0).amax(1)
    return (own - other).abs()
