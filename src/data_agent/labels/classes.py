"""What labels tell a choice: equal shares for the classes, and which labels are not believed.

Both need only what training shows anyway, each sample's label and the model's outputs, and both
stand back by themselves where there is nothing to do: equal shares of equal classes are what chance
gives, and where the model ranks hardly any label last, hardly any is suspected.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from data_agent.errors import CheckpointError
from data_agent.runtime.random import position_hash
from data_agent.runtime.state import require_tensor
from data_agent.runtime.topk import top_k_mask
from data_agent.selecting.feedback import Feedback

UNKNOWN = -1  # the class of a sample whose label never came
FEWEST_CLASSES = 10  # of fewer, one is easily ranked last in error; none were measured, but two
FEWEST_SIGNS = 30  # labels that come last, before they are taken for a share
LARGEST_LABEL = 2**24  # what float32 counts exactly
LEAST_SUSPECTED, MOST_SUSPECTED = 0.2, 0.5
UNSEEN = 2.0  # in place of a margin, which is at most 1
MEMORY = 0.5  # weight of what was known of a margin before a visit


def label_margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Probability of a sample's own label less that of the likeliest other one.

    As in Pleiss et al. 2020, "Identifying Mislabeled Data using the Area Under the Margin Ranking",
    https://arxiv.org/abs/2001.10528, equation 1, of probabilities instead of logits.

    Args:
        logits: float `[B, C]`.
        labels: int64 `[B]` in [0, C).

    Returns:
        float32 `[B]` in [-1, 1].
    """
    probability = torch.softmax(logits.float(), dim=1)
    at = labels.unsqueeze(1)
    others = probability.scatter(1, at, -1.0).amax(1)
    return probability.gather(1, at).squeeze(1) - others


def last_rank_evidence(logits: Tensor, labels: Tensor) -> Tensor:
    """C - 1 where a sample's own label is the least likely, shared among equals, else 0.

    A label that was replaced by one of the C - 1 others at random comes last about once in C - 1
    times, however good the model is, and a right one hardly ever once the model is any good. So
    the mean over a dataset estimates the share of replaced labels, from above. Of few classes a
    right label is often last: of two, whenever the model errs. So below ten nothing is evidence.

    Args:
        logits: float `[B, C]`.
        labels: int64 `[B]` in [0, C).
    """
    if logits.shape[1] < FEWEST_CLASSES:
        return torch.zeros(len(logits), dtype=torch.float32, device=logits.device)
    own, lowest = logits.gather(1, labels.unsqueeze(1)).squeeze(1), logits.amin(1)
    num_last = (logits == lowest.unsqueeze(1)).sum(1)
    tells = (own == lowest) & (lowest < logits.amax(1))  # equal outputs tell nothing of a label
    return tells.float() * (logits.shape[1] - 1) / num_last


def equal_shares(sizes: Tensor, taken: Tensor, count: int, *, seed: int = 0) -> Tensor:
    """How many to choose of each class, so that what is taken and chosen is as equal as can be.

    Water-filling: all classes rise to one level, but for those that have no more samples or are
    above it already. Single samples that are left over go to classes at random.

    Args:
        sizes: int64 `[G]`, samples of each class that can be chosen.
        taken: int64 `[G]`, samples of each class that are in the epoch already.
        count: to choose, in [0, sum(sizes)].
        seed: of what is left over.

    Returns:
        int64 `[G]`, at most `sizes`, with the sum `count`.
    """
    low, high = 0, int((sizes + taken).max())
    while low < high:  # the highest level that does not ask for more than `count`
        level = (low + high + 1) // 2
        if int(_up_to(level, sizes, taken).sum()) <= count:
            low = level
        else:
            high = level - 1
    quota = _up_to(low, sizes, taken)
    open_to_more = (_up_to(low + 1, sizes, taken) > quota).nonzero().squeeze(1)
    at_random = position_hash(open_to_more, seed).argsort(stable=True)
    quota[open_to_more[at_random[: count - int(quota.sum())]]] += 1
    return quota


def suspected(margin: Tensor, group: Tensor, share: float) -> Tensor:
    """Bool `[N]`: in each class the `share` (rounded down) of lowest margin.

    Args:
        margin: float `[N]`, of each sample's label.
        group: int64 `[N]` in [0, G), its class.
        share: in [0, 1].
    """
    sizes = torch.bincount(group)
    mask = torch.zeros(len(group), dtype=torch.bool)
    mask[highest_of_each(-margin, group, (share * sizes).long())] = True
    return mask


def highest_of_each(
    scores: Tensor, group: Tensor, quota: Tensor, *, tie_seed: int = 0, among: Tensor | None = None
) -> Tensor:
    """The `quota[g]` highest scores of each group g, equal ones in random order.

    Args:
        scores: float `[N]`.
        group: int64 `[N]` in [0, G).
        quota: int64 `[G]`.
        tie_seed: seed of the order of equal scores.
        among: bool `[N]`, the samples that count; None takes all.

    Returns:
        int64 `[sum(quota)]`, distinct.
    """
    order = torch.arange(len(scores)) if among is None else among.nonzero().squeeze(1)
    order = order[position_hash(order, tie_seed).argsort(stable=True)]
    order = order[scores[order].argsort(descending=True, stable=True)]
    order = order[group[order].argsort(stable=True)]
    group = group[order]
    sizes = torch.bincount(group, minlength=len(quota))
    rank = torch.arange(len(order)) - (sizes.cumsum(0) - sizes)[group]
    return order[rank < quota[group]]


class ClassTable:
    """Remembers each sample's label, and what the model thought of it, twelve bytes a sample.

    Args:
        num_samples: N.
        balance: choose equal shares of the classes.
        drop_suspects: choose samples with a suspected label only where no others are left.
    """

    width = 3  # label, margin, evidence

    def __init__(self, num_samples: int, *, balance: bool, drop_suspects: bool) -> None:
        self._balance = balance
        self._drop_suspects = drop_suspects
        self._label = torch.full((num_samples,), UNKNOWN, dtype=torch.int32)
        self._margin = torch.full((num_samples,), UNSEEN, dtype=torch.float32)
        self._evidence = torch.zeros(num_samples, dtype=torch.float32)

    def rows(self, feedback: Feedback) -> Tensor:
        """What to keep of a batch: float32 `[B, 3]`."""
        logits = feedback.logits
        rows = feedback.losses.new_zeros((len(feedback), 3), dtype=torch.float32)
        if feedback.labels is None:
            rows[:, 0], rows[:, 1] = UNKNOWN, UNSEEN
            return rows
        labels = feedback.labels.to(rows.device, torch.int64, non_blocking=True)
        counts = (labels >= 0) & (labels <= LARGEST_LABEL)
        rows[:, 1] = UNSEEN
        if logits is not None:
            counts &= labels < logits.shape[1]  # not such as 255 for "to be ignored"
        if logits is not None and self._drop_suspects:  # nobody else asks for them
            at = labels.clamp(0, logits.shape[1] - 1)
            rows[:, 1] = torch.where(counts, label_margin(logits, at), UNSEEN)
            rows[:, 2] = last_rank_evidence(logits, at) * counts
        rows[:, 0] = torch.where(counts, labels, UNKNOWN)
        return rows

    def merge(self, index: Tensor, values: Tensor) -> None:
        """Take in rows of distinct samples; margins are averaged over visits, late ones most."""
        tells = values[:, 0] != UNKNOWN  # a visit without a label takes nothing away
        index, values = index[tells], values[tells]
        self._label[index] = values[:, 0].to(torch.int32)
        before, now = self._margin[index], values[:, 1]
        mixed = torch.where(before == UNSEEN, now, MEMORY * before + (1 - MEMORY) * now)
        self._margin[index] = torch.where(now == UNSEEN, before, mixed)
        self._evidence[index] = values[:, 2]

    def choose(self, scores: Tensor, count: int, excluded: Tensor, *, tie_seed: int) -> Tensor:
        """The highest scores, with the classes' shares and without suspects as far as possible.

        Args:
            scores: float32 `[N]`.
            count: how many.
            excluded: bool `[N]`, samples that are in the epoch already.
            tie_seed: seed of the order of equal scores.

        Returns:
            int64 `[count]`, distinct, none of them excluded.
        """
        doubted = self.suspects()
        among = ~(excluded | doubted)
        if (num_missing := count - int(among.sum())) > 0:  # not without suspects: the least of them
            others = ~doubted | excluded
            among |= top_k_mask(self._margin, num_missing, tie_seed=tie_seed, excluded=others)
        known = self._label != UNKNOWN
        if not self._balance or not known.any():
            return _highest(scores, count, among, tie_seed)
        # Samples of unknown class are no class: they come as often as they are there.
        others, is_open = among & ~known, among & known
        num_others = math.floor(count * int(others.sum()) / max(1, int(among.sum())) + 0.5)
        num_others = max(num_others, count - int(is_open.sum()))
        group = self._groups()
        sizes = torch.bincount(group[is_open], minlength=int(group.max()) + 1)
        taken = torch.bincount(group[excluded & known], minlength=len(sizes))
        quota = equal_shares(sizes, taken, count - num_others, seed=tie_seed)
        chosen = highest_of_each(scores, group, quota, tie_seed=tie_seed, among=is_open)
        return torch.cat([chosen, _highest(scores, num_others, others, tie_seed)])

    @property
    def is_empty(self) -> bool:
        """Whether no label has come so far."""
        return bool((self._label == UNKNOWN).all())

    @property
    def suspected_share(self) -> float:
        """The share of wrong labels as `last_rank_evidence` bounds it, at most a half.

        Nothing below a fifth: a model that still knows little shows as much on right labels, and
        few wrong ones harm less than leaving out what is hard.
        """
        if not self._drop_suspects:
            return 0.0
        seen = self._margin != UNSEEN
        if not seen.any():
            return 0.0
        evidence = self._evidence[seen]
        share = float(evidence.mean())
        is_little = int((evidence > 0).sum()) < FEWEST_SIGNS
        return 0.0 if is_little or share < LEAST_SUSPECTED else min(MOST_SUSPECTED, share)

    def suspects(self) -> Tensor:
        """Bool `[N]`: samples whose label is not believed."""
        share = self.suspected_share
        if not share:
            return torch.zeros(len(self._label), dtype=torch.bool)
        return suspected(self._margin, self._groups(), share) & (self._margin != UNSEEN)

    def _groups(self) -> Tensor:
        """int64 `[N]`: classes numbered without gaps, unknown ones 0 if there are any."""
        return self._label.unique(return_inverse=True)[1]

    def state_dict(self) -> dict[str, Any]:
        """The table's tensors."""
        return {
            "label": self._label.clone(),
            "margin": self._margin.clone(),
            "evidence": self._evidence.clone(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned.

        Raises:
            CheckpointError: a tensor of another shape or dtype, or values that cannot be.
        """
        shape = tuple(self._label.shape)
        label = require_tensor(state, "label", shape=shape, dtype=torch.int32)
        margin = require_tensor(state, "margin", shape=shape, dtype=torch.float32)
        evidence = require_tensor(state, "evidence", shape=shape, dtype=torch.float32)
        if len(label) and int(label.min()) < UNKNOWN:
            raise CheckpointError(f"a label is {int(label.min())}; expected {UNKNOWN} or more.")
        if not (margin.abs() <= UNSEEN).all() or not ((evidence >= 0) & evidence.isfinite()).all():
            raise CheckpointError(
                "margins are not in [-1, 1], or evidence is not a count of classes."
            )
        self._label, self._margin, self._evidence = label, margin, evidence


def _highest(scores: Tensor, count: int, among: Tensor, tie_seed: int) -> Tensor:
    return top_k_mask(scores, count, tie_seed=tie_seed, excluded=~among).nonzero().squeeze(1)


def _up_to(level: int, sizes: Tensor, taken: Tensor) -> Tensor:
    return torch.minimum((level - taken).clamp_min(0), sizes)
