"""Train on the samples whose loss was highest at their last visit.

The oldest rule of the field: Loshchilov and Hutter 2016, "Online Batch Selection for Faster
Training of Neural Networks", https://arxiv.org/abs/1511.06343, section 4 ranks samples by their
last known loss; Kawaguchi and Lu 2020, "Ordered SGD", https://arxiv.org/abs/1907.04371, take the
highest losses without drawing, as here.

Departures. The first draw batches by rank, the second rank each fresh batch. Here an epoch takes
the highest last losses of all samples, after one pass over everything.
"""

from __future__ import annotations

from torch import Tensor

from data_agent.baselines.scored import Scored
from data_agent.selecting.feedback import Feedback


class TopLoss(Scored):
    """The score is the loss. On noisy labels this trains on the noise."""

    name = "top-loss"
    reads = ()

    def score(self, feedback: Feedback) -> Tensor:
        """l_i, float `[B]`."""
        return feedback.losses
