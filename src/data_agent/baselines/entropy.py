"""Train on the samples whose prediction was least certain at their last visit, by entropy.

Entropy is the uncertainty of active learning: Settles 2009, "Active Learning Literature Survey",
https://burrsettles.com/pub/settles.activelearning.pdf, section 3.1. Coleman et al. 2020, "Selection
via Proxy", https://arxiv.org/abs/1906.11829, choose core-sets by it before training.

Departures. The scores are those of the training run itself, taken at each visit.
"""

from __future__ import annotations

import torch
from torch import Tensor

from data_agent.baselines.scored import Scored, logits_of
from data_agent.selecting.feedback import Feedback


class Entropy(Scored):
    """The score is the entropy of softmax(logits), or a task's own `uncertainty`."""

    name = "entropy"
    reads = ("logits", "uncertainty")

    def examine(self, feedback: Feedback) -> Feedback:
        """Logits or an uncertainty must come."""
        if feedback.uncertainty is None:
            logits_of(feedback, self.name, instead="uncertainty= in [0, 1]")
        return feedback

    def score(self, feedback: Feedback) -> Tensor:
        """H_i, float `[B]`."""
        if feedback.uncertainty is not None:
            return feedback.uncertainty
        return entropy(logits_of(feedback, self.name, instead="uncertainty= in [0, 1]"))


def entropy(logits: Tensor) -> Tensor:
    """-sum_j p_ij log p_ij of p_i = softmax(z_i), float `[B]` in [0, log C], of logits `[B, C]`."""
    log_p = torch.log_softmax(logits, dim=1)
    return -(log_p.exp() * log_p).sum(1)
