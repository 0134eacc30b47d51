"""Train on the samples whose loss was lowest: the small-loss trick against label noise.

Han et al. 2018, "Co-teaching: Robust Training of Deep Neural Networks with Extremely Noisy
Labels", https://arxiv.org/abs/1804.06872, Algorithm 1: of each mini-batch train on the share R(t)
with the smallest losses, `R(t) = 1 - min(t / T_k * tau, tau)` with noise rate tau, because a
network learns clean labels before it memorises noisy ones.

Departures. One network chooses for itself; the paper's two choose for each other. R is the keep
ratio from the end of the warm-up pass on (its R = 1), not a ramp to 1 - tau. The paper ranks each
fresh batch; across epochs a sample that once had a high loss would never be seen, and so never get
another. So a fifth of each epoch is drawn uniformly: at keep ratio 0.5 everybody is looked at anew
within ten epochs, while at a noise rate of 40 % this alone brings 8 % of noise into the epoch.
"""

from __future__ import annotations

from torch import Tensor

from data_agent.baselines.scored import Scored
from data_agent.selecting.feedback import Feedback


class SmallLoss(Scored):
    """The score is minus the loss. On clean data this trains on what is learned already."""

    name = "small-loss"
    reads = ()
    explore = 0.2

    def score(self, feedback: Feedback) -> Tensor:
        """-l_i, float `[B]`."""
        return -feedback.losses
