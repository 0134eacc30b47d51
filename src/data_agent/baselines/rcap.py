"""RCAP: more samples for classes that are learned badly, high losses first within each.

Hassan et al. 2025, "RCAP: Robust, Class-Aware, Probabilistic Dynamic Dataset Pruning" (UAI),
https://proceedings.mlr.press/v286/hassan25a.html, and its authors' code, the package DataCull
(https://github.com/atif-hassan/RCAP-dynamic-dataset-pruning, methods/RCAP.py). In each epoch class
c gets `k_c = K sqrt(L_c pi_c) / sum_d sqrt(L_d pi_d)` samples, with L_c the class's aggregated loss
in the last epoch and pi_c its share of the data: what minimises `sum_c pi_c L_c / k_c`. A class
that would get more than it has gives all. Within a class samples are drawn without replacement in
proportion to `exp(l / beta)`, with losses clipped at log C.

Departures. We had the code and the abstract, not the paper's equations. The code aggregates the
softmax weights of the samples chosen last, which say what part of a class was chosen and not how
high its losses are; we aggregate their clipped losses, as the abstract says. The code rounds every
k_c up, and shares out the rest of a full class by the whole budget instead of what is left of it:
its epochs can hold twice the budget (benchmarks/datacull.py). Here the counts are those of the
closed form under the bounds, rounded to exactly K, one at least for each class. The code starts
without a warm-up, from losses of log C, which is what samples never visited have here.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from data_agent.baselines.inputs import checked_classes
from data_agent.baselines.scored import Remembers
from data_agent.errors import InputError
from data_agent.runtime.random import Purpose, generator
from data_agent.runtime.state import checksum
from data_agent.selecting.feedback import Feedback
from data_agent.selecting.selector import Selector


class RCAP(Remembers, Selector):
    """Class-aware draws; five bytes a sample, and the labels.

    Args:
        labels: int64 `[N]`, each sample's class, 0 or more.
        beta: temperature of the draw within a class, above 0; lower prefers high losses more.
        base: as `Selector`.
    """

    name = "rcap"
    reads = ()
    required = ("labels",)
    remembered = ("losses", "is_last")

    def __init__(self, *, labels: Tensor, beta: float = 1.0, **base: Any) -> None:
        super().__init__(**base)
        labels = checked_classes("labels", labels, self.schedule.num_samples)
        if beta <= 0:
            raise InputError(f"beta is {beta}; expected a temperature above 0.")
        self.beta = beta
        self._checksum = checksum(labels)
        self._class_of = labels.unique(return_inverse=True)[1]
        self._sizes = torch.bincount(self._class_of)
        self._highest = math.log(max(2, len(self._sizes)))
        self.losses = torch.full((len(labels),), self._highest)
        self.is_last = torch.ones(len(labels), dtype=torch.bool)  # in the last epoch

    def settings(self) -> dict[str, Any]:
        """A checksum of the labels, and the temperature."""
        return {"labels": self._checksum, "beta": self.beta}

    def record(self, feedback: Feedback) -> Tensor:
        """The losses, `[B, 1]`."""
        return feedback.losses.float().unsqueeze(1)

    def merge(self, index: Tensor, values: Tensor) -> None:
        """Keep the clipped losses, and who was in the epoch."""
        self.losses[index] = values[:, 0].clamp(0, self._highest)
        self.is_last = torch.zeros_like(self.is_last)
        self.is_last[index] = True

    def choose(self, epoch: int, count: int, excluded: Tensor) -> Tensor:
        """Each class's count, drawn within it."""
        num_classes = len(self._sizes)
        last = (self.losses * self.is_last).double()
        class_loss = torch.bincount(self._class_of, weights=last, minlength=num_classes)
        limits = torch.bincount(self._class_of[~excluded], minlength=num_classes)
        counts = class_counts(class_loss, self._sizes, count, limits=limits)
        draws = generator(self.seed, Purpose.SUBSET, epoch)
        uniform = torch.rand(len(excluded), generator=draws).clamp_min(1e-30)
        # Adding Gumbel noise to log-weights makes the highest a draw without replacement.
        gumbel = -(-uniform.log()).clamp_min(1e-30).log()
        key = (self.losses / self.beta + gumbel).masked_fill(excluded, -torch.inf)
        order = key.argsort(descending=True, stable=True)
        order = order[self._class_of[order].argsort(stable=True)]  # class by class, keys falling
        first = self._sizes.cumsum(0) - self._sizes
        rank = torch.arange(len(order)) - first[self._class_of[order]]
        return order[rank < counts[self._class_of[order]]]


def class_counts(
    class_loss: Tensor, sizes: Tensor, count: int, *, limits: Tensor | None = None
) -> Tensor:
    """How many samples of each class, int64 `[C]`, `count` in all.

    In proportion to sqrt(L_c pi_c), but for classes that have fewer: these give all, and the others
    share the rest in the same proportions. Rounded by largest remainders, to one at least where
    `count` allows.

    Args:
        class_loss: L, float `[C]`, 0 or more; where all are zero only pi counts.
        sizes: int64 `[C]`, samples of each class; pi are their shares.
        count: K, in [0, sum(limits)].
        limits: int64 `[C]`, how many of each class can be taken; None means all.
    """
    limits = sizes if limits is None else limits
    share = (class_loss.double().clamp_min(1e-12) * sizes / sizes.sum()).sqrt()
    is_full = limits == 0
    while True:
        left = count - limits[is_full].sum()
        exact = torch.where(is_full, limits.double(), left * share / share[~is_full].sum())
        over = ~is_full & (exact >= limits)
        if not over.any() or bool((is_full | over).all()):
            break
        is_full |= over
    exact = exact.minimum(limits)
    counts = exact.floor().long()
    remainder = (exact - counts).masked_fill(counts == limits, -1)
    rest = count - int(counts.sum())
    counts[remainder.argsort(descending=True, stable=True)[:rest]] += 1
    for label in ((counts == 0) & (limits > 0)).nonzero().squeeze(1):
        if counts.max() < 2:
            break
        counts[counts.argmax()] -= 1  # without a sample, and so a loss, a class would stay at none
        counts[label] = 1
    return counts
