"""InfoBatch: prune well-learned samples at random and weigh up those that stay.

Qin et al. 2024, "InfoBatch: Lossless Training Speed Up by Unbiased Dynamic Data Pruning",
https://arxiv.org/abs/2303.04947, figure 2 (soft pruning, expectation rescaling) and annealing: of
the samples whose last loss is below the mean a share r, drawn at random, is left out of the epoch;
the others below the mean get the weight 1 / (1 - r), so that gradients stay unbiased; the last
12.5 % of the epochs are full and unweighted.

Departures. `infobatch` spends exactly our budget. To leave out P samples, r = P / L of the L
samples below the mean are pruned, at most 0.75 of them, so that no weight is above four times
another. Where L is too small, the lowest P / 0.75 losses take their place. (At a keep ratio of 0.25
or less that is everybody, and a uniform draw is left of the method.) Weights are divided by their
mean, because all methods of a comparison have one learning-rate schedule for equally many steps.

`infobatch-published` is the paper's method at r = 0.5: its cost is known when an epoch begins, its
weights are not divided. It departs from the released code where that code is not the paper: there
weights return to one before the final epochs only if 0.875 E is whole. As there, exactly
floor((1 - r) L) of the L stay, while the paper prunes each with probability r.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from data_agent.baselines.scored import Scored
from data_agent.runtime.random import Purpose, derived_seed, permutation
from data_agent.runtime.topk import top_k_mask
from data_agent.selecting.feedback import Feedback

R_MAX = 0.75
R_PUBLISHED = 0.5


class InfoBatch(Scored):
    """At the exact budget; the score is the last loss."""

    name = "infobatch"
    reads = ()

    def score(self, feedback: Feedback) -> Tensor:
        """l_i, float `[B]`."""
        return feedback.losses

    def choose(self, epoch: int, count: int, excluded: Tensor) -> Tensor:
        """All but those pruned, who were all visited, if enough were."""
        num_pruned = int((~excluded).sum()) - count
        pool = self._pool(epoch, num_pruned, excluded)
        return (self._prune(epoch, pool, num_pruned) & ~excluded).nonzero().squeeze(1)

    def weigh(self, epoch: int, index: Tensor, excluded: Tensor) -> Tensor | None:
        """1 / (1 - r) for the pool, 1 for others, divided by the mean; 1 for the excluded."""
        num_pruned = len(excluded) - len(index)
        if not num_pruned:
            return None
        pool = self._pool(epoch, num_pruned, excluded)
        weights = rescaling(pool, num_pruned / int(pool.sum()))[index]
        is_chosen = ~excluded[index]
        return torch.where(is_chosen, weights / weights[is_chosen].mean(), 1)

    def _pool(self, epoch: int, num_pruned: int, excluded: Tensor) -> Tensor:
        tie_seed = derived_seed(self.seed, Purpose.TIE, epoch)
        return pruning_pool(self.scores, num_pruned, excluded=excluded, tie_seed=tie_seed)

    def _prune(self, epoch: int, pool: Tensor, num_pruned: int) -> Tensor:
        """Everybody but `num_pruned` of the pool, drawn at random: bool `[N]`."""
        members = pool.nonzero().squeeze(1)
        order = permutation(len(members), self.seed, Purpose.PRUNE, epoch)
        kept = torch.ones(len(pool), dtype=torch.bool)
        kept[members[order[:num_pruned]]] = False
        return kept


class InfoBatchPublished(InfoBatch):
    """As published: half of those below the mean are pruned, whatever `keep_ratio` says."""

    name = "infobatch-published"
    default_schedule = "floating"

    def __init__(self, *, keep_ratio: float = 1.0, **base: Any) -> None:
        del keep_ratio
        super().__init__(keep_ratio=1.0, schedule="floating", **base)

    def choose(self, epoch: int, count: int, excluded: Tensor) -> Tensor:
        """Fewer than `count`: all but half of those below the mean."""
        del count, excluded  # everybody and nobody, in a floating schedule
        pool = below_mean(self.scores)
        num_pool = int(pool.sum())
        num_pruned = num_pool - math.floor((1 - R_PUBLISHED) * num_pool)
        return self._prune(epoch, pool, num_pruned).nonzero().squeeze(1)

    def weigh(self, epoch: int, index: Tensor, excluded: Tensor) -> Tensor:
        """2 for those below the mean, 1 for others: not divided by their mean, as published."""
        del epoch, excluded
        return rescaling(below_mean(self.scores), R_PUBLISHED)[index]


def below_mean(scores: Tensor) -> Tensor:
    """Who is well learned, bool `[N]`: a score below the mean of those that are finite."""
    return scores < scores[scores.isfinite()].double().mean()


def pruning_pool(scores: Tensor, num_pruned: int, *, excluded: Tensor, tie_seed: int) -> Tensor:
    """Of whom `num_pruned` are pruned, bool `[N]`: at most the share `R_MAX`, nobody excluded.

    Those below the mean; where they are too few, the lowest scores, equal ones drawn. Scores are
    float32 `[N]`, infinite where a sample was never visited; P < N less the excluded, bool `[N]`.
    """
    pool = below_mean(scores) & ~excluded
    needed = min(math.ceil(num_pruned / R_MAX), int((~excluded).sum()))
    if int(pool.sum()) >= needed:
        return pool
    return top_k_mask(-scores, needed, tie_seed=tie_seed, excluded=excluded)


def rescaling(pool: Tensor, r: float) -> Tensor:
    """Weights float32 `[N]`: 1 / (1 - r) in the pool, of which the share `r` is pruned, else 1."""
    return torch.ones(len(pool)).masked_fill(pool, 1 / (1 - r))
