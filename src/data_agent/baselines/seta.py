"""SeTa: random down-sampling, and a window over groups of difficulty that slides from easy to hard.

Zhou et al. 2025, "Scale Efficient Training for Large Datasets" (CVPR),
https://arxiv.org/abs/2503.13385, and its code, https://github.com/mrazhou/SeTa (seta.py): each
epoch (1) draws a share r of the samples, (2) groups them into k clusters by k-means on their last
losses, (3) trains on `w = round(alpha k)` neighbouring clusters, a window that moves from the
easiest by one cluster an epoch and starts again after the hardest: `s_t = t mod (k - w + 1)`.
The last 12.5 % of the epochs draw from everything ("partial annealing").

Departures. The paper's budget is r times whatever the window happens to hold. At the exact budget:

- The share r is what makes the window's samples K. Drawing before or after the clustering is the
  same in expectation; after it, the clusters are those of the whole table.
- A window that holds fewer than K, as the hard ones do late in training, gives all it has, and the
  clusters next to it the rest, in order of their distance, the last of them a random part.
- k-means starts from clusters split where the error is largest, instead of from random centres.
- The first window is the easiest (the code's counter makes it the second), and the exact schedule's
  final phase is the partial annealing, without replacement.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_agent.baselines.scored import Scored
from data_agent.errors import InputError
from data_agent.selecting.feedback import Feedback

_MAX_ROUNDS = 1000


class SeTa(Scored):
    """The score is the last loss.

    Args:
        num_groups: k, clusters of difficulty, 1 or more; the code's default.
        window: alpha, share of the clusters in the window, in (0, 1]; the code's default.
        base: as `Selector`.
    """

    name = "seta"
    reads = ()

    def __init__(self, *, num_groups: int = 10, window: float = 0.5, **base: Any) -> None:
        super().__init__(**base)
        if num_groups < 1:
            raise InputError(f"num_groups is {num_groups}; expected 1 or more clusters.")
        if not 0 < window <= 1:
            raise InputError(f"window is {window}; expected a share of the clusters in (0, 1].")
        self.num_groups = num_groups
        self.window = window

    def settings(self) -> dict[str, Any]:
        """The number of clusters and the window."""
        return {"num_groups": self.num_groups, "window": self.window}

    def score(self, feedback: Feedback) -> Tensor:
        """l_i, float `[B]`."""
        return feedback.losses

    def choose(self, epoch: int, count: int, excluded: Tensor) -> Tensor:
        """Draws from the window; then from the clusters next to it."""
        groups = difficulty_groups(self.scores, self.num_groups)
        step = sum(self.schedule.plan(past).num_selected > 0 for past in range(epoch))
        distance = window_distance(int(groups.max()) + 1, self.window, step)
        return self.take_highest(-distance[groups], epoch, count, excluded)


def window_distance(num_groups: int, window: float, step: int) -> Tensor:
    """Each cluster's rank by distance from the window, float32 `[k]`, easy to hard: zero inside.

    The window holds `w = max(1, round(alpha k))` clusters from `s = step mod (k - w + 1)` on. Its
    neighbours are 1 (easier) and 2 (harder), the next ones 3 and 4, and so on.
    """
    width = max(1, round(window * num_groups))
    start = step % (num_groups - width + 1)
    group = torch.arange(num_groups)
    easier = (2 * (start - group) - 1) * (group < start)
    harder = 2 * (group - start - width + 1) * (group >= start + width)
    return (easier + harder).float()


def difficulty_groups(losses: Tensor, num_groups: int) -> Tensor:
    """1-D k-means: the cluster of each loss `[N]`, int64 `[N]`, numbered from the lowest losses on.

    Lloyd's algorithm on the sorted values, O(N log N), from k clusters made by splitting k - 1
    times the one of largest squared error at its mean; fewer where there are fewer values. Losses
    that are not finite (never visited) count as the highest.
    """
    values = losses.double().numpy()
    finite = values[np.isfinite(values)]
    values = np.minimum(values, finite.max() if len(finite) else 0.0)
    ordered = np.sort(values)
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    squares = np.concatenate([[0.0], np.cumsum(ordered**2)])
    cuts = np.array([0, len(ordered)])
    for _ in range(num_groups - 1):
        centres = np.diff(sums[cuts]) / np.diff(cuts)
        worst = np.argmax(np.diff(squares[cuts]) - np.diff(sums[cuts]) * centres)
        split = np.searchsorted(ordered, centres[worst], side="right")
        cuts = np.unique(np.append(cuts, split))
    for _ in range(_MAX_ROUNDS):
        centres = np.diff(sums[cuts]) / np.diff(cuts)
        between = (centres[1:] + centres[:-1]) / 2
        inner = np.searchsorted(ordered, between, side="right")
        moved = np.unique(np.concatenate([[0], inner, [len(ordered)]]))  # drops empty clusters
        if np.array_equal(moved, cuts):
            break
        cuts = moved
    borders = ordered[cuts[1:-1]]  # the lowest value of each cluster but the first
    return torch.from_numpy(np.searchsorted(borders, values, side="right"))
