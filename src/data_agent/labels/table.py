"""What is remembered of each sample's label, and what it allows a ranking to choose."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from data_agent.errors import CheckpointError
from data_agent.labels.changes import BEYOND, UNKNOWN, warn_of_labels
from data_agent.labels.margins import label_margin, last_rank_evidence, ranks_first
from data_agent.labels.rules import LabelRules
from data_agent.labels.shares import equal_shares, highest_of_each
from data_agent.runtime.state import require_tensor
from data_agent.runtime.topk import top_k_mask
from data_agent.selecting.feedback import Feedback

UNSEEN = 2.0  # in place of a margin, which is at most 1
LARGEST_LABEL = 2**31 - 1  # what int32 holds


class LabelTable:
    """Remembers each sample's label and what the model thought of it, 19 bytes a sample.

    Args:
        num_samples: N.
        rules: which rules are on, and their thresholds.
    """

    name: ClassVar[str] = "labels"
    reads: ClassVar[tuple[str, ...]] = ("logits", "labels")
    dtypes: ClassVar[Mapping[str, torch.dtype]] = {
        "label": torch.int32,
        "margin": torch.float32,
        "evidence": torch.float32,
        "ranks_first": torch.bool,
    }

    def __init__(self, num_samples: int, rules: LabelRules) -> None:
        self.rules = rules
        self._label = torch.full((num_samples,), UNKNOWN, dtype=torch.int32)
        self._margin = torch.full((num_samples,), UNSEEN, dtype=torch.float32)
        self._evidence = torch.zeros(num_samples, dtype=torch.float32)
        self._ranks_first = torch.zeros(num_samples, dtype=torch.bool)
        self._margin_sum = torch.zeros(num_samples, dtype=torch.float32)
        self._num_margins = torch.zeros(num_samples, dtype=torch.int16)
        self._shares = torch.zeros(2, dtype=torch.float64)  # sum and number of estimates
        self._num_classes = 0  # as the logits have; 0 while none came

    # What a batch shows, and what stays of it.

    def record(self, feedback: Feedback) -> dict[str, Tensor]:
        """What to keep of a batch, `[B]` each, on its device."""
        size, device, logits = len(feedback), feedback.losses.device, feedback.logits
        rows = {
            "label": torch.full((size,), UNKNOWN, dtype=torch.int32, device=device),
            "margin": torch.full((size,), UNSEEN, device=device),
            "evidence": torch.zeros(size, device=device),
            "ranks_first": torch.zeros(size, dtype=torch.bool, device=device),
        }
        if feedback.labels is None:
            return rows
        labels = feedback.labels.to(device, torch.int64, non_blocking=True)
        counts = (labels >= 0) & (labels <= LARGEST_LABEL)
        if logits is not None:
            self._num_classes = logits.shape[1]
            beyond = counts & (labels >= logits.shape[1])  # such as 255 for "to be ignored"
            rows["label"] = torch.where(beyond, BEYOND, rows["label"])
            counts &= ~beyond
            if self._doubts_labels:
                at = labels.clamp(0, logits.shape[1] - 1)
                rows["margin"] = torch.where(counts, label_margin(logits, at), UNSEEN)
                rows["evidence"] = last_rank_evidence(logits, at) * counts
                rows["ranks_first"] = ranks_first(logits, at) & counts
        rows["label"] = torch.where(counts, labels, rows["label"]).to(torch.int32)
        return rows

    def merge(self, index: Tensor, rows: Mapping[str, Tensor]) -> None:
        """Take in rows of distinct samples; margins are averaged over visits, late ones most."""
        warn_of_labels(self._label[index], rows["label"], self._num_classes)
        tells = rows["label"] >= 0  # a visit without a label takes nothing away
        index, rows = index[tells], {name: values[tells] for name, values in rows.items()}
        self._label[index] = rows["label"]
        before, now, memory = self._margin[index], rows["margin"], self.rules.memory
        mixed = torch.where(before == UNSEEN, now, memory * before + (1 - memory) * now)
        is_seen = now != UNSEEN
        self._margin[index] = torch.where(is_seen, mixed, before)
        self._evidence[index] = rows["evidence"]
        self._ranks_first[index] = rows["ranks_first"]
        self._margin_sum[index] += torch.where(is_seen, now, 0.0)
        self._num_margins[index] += is_seen.to(torch.int16)
        if (share := self.doubtful_share) > 0:
            self._shares += torch.tensor([share, 1.0], dtype=torch.float64)

    # What the rules allow.

    def choose(self, scores: Tensor, count: int, excluded: Tensor, *, tie_seed: int) -> Tensor:
        """The highest scores, with the classes' shares and doubtful labels last.

        Args:
            scores: float32 `[N]`.
            count: how many.
            excluded: bool `[N]`, samples that are in the epoch already.
            tie_seed: seed of the order of equal scores.

        Returns:
            int64 `[count]`, distinct, none of them excluded.
        """
        doubtful = self.left_out()
        among = ~(excluded | doubtful)
        if (num_missing := count - int(among.sum())) > 0:  # not without them: the least doubtful
            others = ~doubtful | excluded
            among |= top_k_mask(self._margin, num_missing, tie_seed=tie_seed, excluded=others)
        known = self._label != UNKNOWN
        if not self.rules.class_shares or not known.any():
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
    def doubtful_share(self) -> float:
        """The share of labels that training leaves out now: as estimated, 0 where held back."""
        share, reason = self._estimate()
        return 0.0 if reason else share

    def left_out(self) -> Tensor:
        """Bool `[N]`: samples that training leaves out now, as their label is doubtful."""
        if not (share := self.doubtful_share):
            return torch.zeros(len(self._label), dtype=torch.bool)
        return lowest_of_each(self._margin, self._groups(), share) & (self._margin != UNSEEN)

    def suspects(self) -> Tensor:
        """Bool `[N]`: samples whose label is doubtful by all visits so far, for a person to see.

        In each class the lowest mean margin over all visits, as many as the mean of all estimates
        says. Other than what training leaves out, none of it vanishes as a model memorises labels.
        """
        total, number = self._shares.tolist()
        seen = self._num_margins > 0
        if not number:
            return torch.zeros(len(self._label), dtype=torch.bool)
        mean = torch.where(seen, self._margin_sum / self._num_margins.clamp(min=1), UNSEEN)
        return lowest_of_each(mean, self._groups(), total / number) & seen

    def in_words(self) -> str:
        """What the rules do now: "equal class shares; doubtful labels: off, 2 classes"."""
        rules = self.rules
        shares = "equal class shares" if rules.class_shares else "class shares: off"
        share, reason = self._estimate()
        doubtful = f"off, {reason}" if reason else f"{share:.0%} left out"
        return f"{shares}; doubtful labels: {doubtful}"

    def metrics(self) -> dict[str, float]:
        """The share of doubtful labels, where the rule is on."""
        return {"doubtful_share": self.doubtful_share} if self._doubts_labels else {}

    @property
    def _doubts_labels(self) -> bool:
        rules, num_classes = self.rules, self._num_classes
        return rules.doubtful_labels and num_classes >= rules.fewest_classes

    def _estimate(self) -> tuple[float, str]:
        """The estimated share of wrong labels, and why none is left out, if so."""
        rules, seen = self.rules, self._margin != UNSEEN
        if not rules.doubtful_labels:
            return 0.0, "by its setting"
        if 0 < self._num_classes < rules.fewest_classes:
            return 0.0, f"{self._num_classes} classes"
        if not seen.any():
            return 0.0, "no labels with logits so far"
        evidence = self._evidence[seen]
        share = min(rules.most_share, float(evidence.mean()))
        if int((evidence > 0).sum()) < rules.fewest_signs or share < rules.least_share:
            return share, f"fewer than {rules.least_share:.0%} look wrong"
        if float(self._ranks_first[seen].float().mean()) < rules.least_right * (1 - share):
            return share, "the model is near chance"
        return share, ""

    def _groups(self) -> Tensor:
        """int64 `[N]`: classes numbered without gaps, unknown ones 0 if there are any."""
        return self._label.unique(return_inverse=True)[1]

    # State.

    def state_dict(self) -> dict[str, Any]:
        """The table's tensors."""
        return {
            "label": self._label.clone(),
            "margin": self._margin.clone(),
            "evidence": self._evidence.clone(),
            "ranks_first": self._ranks_first.clone(),
            "margin_sum": self._margin_sum.clone(),
            "num_margins": self._num_margins.clone(),
            "shares": self._shares.clone(),
            "num_classes": self._num_classes,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned.

        Raises:
            CheckpointError: a tensor of another shape or dtype, or values that cannot be.
        """
        loaded = {
            name: require_tensor(state, name, shape=tuple(own.shape), dtype=own.dtype)
            for name, own in self.state_dict().items()
            if isinstance(own, Tensor)
        }
        label, margin, evidence = (loaded[name] for name in ("label", "margin", "evidence"))
        if len(label) and int(label.min()) < UNKNOWN:
            raise CheckpointError(f"a label is {int(label.min())}; expected {UNKNOWN} or more.")
        if not (margin.abs() <= UNSEEN).all() or not ((evidence >= 0) & evidence.isfinite()).all():
            raise CheckpointError(
                "margins are not in [-1, 1], or evidence is not a count of classes."
            )
        if not loaded["margin_sum"].isfinite().all() or not loaded["shares"].isfinite().all():
            raise CheckpointError("sums of margins or estimates are not finite.")
        self._num_classes = int(state["num_classes"])
        for name, values in loaded.items():
            setattr(self, f"_{name}", values)


def lowest_of_each(margin: Tensor, group: Tensor, share: float) -> Tensor:
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


def _highest(scores: Tensor, count: int, among: Tensor, tie_seed: int) -> Tensor:
    return top_k_mask(scores, count, tie_seed=tie_seed, excluded=~among).nonzero().squeeze(1)
