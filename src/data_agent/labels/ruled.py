"""A selector that ranks samples, within what label rules allow."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from data_agent.errors import InputError
from data_agent.labels.rules import LabelRules
from data_agent.labels.table import LabelTable
from data_agent.labels.turns import Turns
from data_agent.runtime.masks import mask_of, only
from data_agent.runtime.random import Purpose, derived_seed
from data_agent.runtime.topk import top_k_mask
from data_agent.selecting.feedback import WITHOUT_RULES, Feedback
from data_agent.selecting.selector import Selector


class RuledSelector(Selector):
    """Takes the highest of a ranking; label rules can be put on it, whatever the ranking is.

    To write one, define `choose` by `take_highest`.

    Args:
        label_rules: constraints on the ranking from the samples' labels, which each batch must
            then bring; None ranks without.
        base: as `Selector`.

    Raises:
        InputError: `label_rules` is something else.
    """

    def __init__(self, *, label_rules: LabelRules | None = None, **base: Any) -> None:
        if label_rules is not None and not isinstance(label_rules, LabelRules):
            raise InputError(
                f"label_rules is {label_rules!r}; expected LabelRules(...) of data_agent.labels, "
                "or None."
            )
        self.label_rules = label_rules
        self._labels: LabelTable | None = None
        if label_rules is not None:
            self._labels = LabelTable(base["num_samples"], label_rules)
            base["tables"] = (*base.get("tables", ()), self._labels)
        super().__init__(**base)

    def take_highest(
        self, scores: Tensor, epoch: int, count: int, excluded: Tensor, order: int | None = None
    ) -> Tensor:
        """Mark the `count` highest scores that the rules allow: bool `[N]`.

        Args:
            scores: `[N]`, as `top_k_mask`.
            epoch: the epoch, which seeds the draws.
            count: how many.
            excluded: bool `[N]`, samples that are in the epoch already.
            order: seed of the order of equal scores; None draws another one in each epoch.
        """
        seed = derived_seed(self.seed, Purpose.TIE, epoch)
        order = seed if order is None else order
        if self._labels is None:
            shard = self.own.shard
            return top_k_mask(scores, count, tie_seed=order, excluded=excluded, shard=shard)
        return self._labels.choose(scores, count, excluded, tie_seed=order, seed=seed)

    def take_by_turns(self, turns: Turns, epoch: int, count: int, excluded: Tensor) -> Tensor:
        """Mark those whose turn it is and that the rules allow: bool `[N]`."""
        return self.take_highest(turns.waiting(), epoch, count, excluded, turns.order_seed)

    def end_turns(self, turns: Turns, index: Tensor) -> None:
        """The samples of the running epoch, int64 `[K]`, had their turn."""
        running = self._open_epoch()
        taken = mask_of(index, self.schedule.num_samples)
        by_turn = torch.zeros_like(taken)
        if running.uniform is not None:
            by_turn = only(taken, running.uniform)
        if running.first is not None:
            by_turn = only(by_turn, mask_of(running.first, len(taken)))
        barred = classes = None
        if self._labels is not None:
            barred, classes = self._labels.left_out(), self._labels.shared_classes()
        turns.take(taken, by_turn, barred, classes)

    def observe(self, feedback: Feedback) -> None:
        """As `Selector.observe`; an InputError where rules hold and no labels came."""
        if self._labels is not None and feedback.labels is None:
            remedy = "build it with label_rules=None"
            if self.needs_labels:
                remedy = f"take {WITHOUT_RULES}"
            raise InputError(
                f"{self.name} has label rules ({self._labels.rules.in_words()}), and no labels "
                "came: call learn(losses, index, labels=labels), with -100 for samples without "
                f"one; or {remedy}."
            )
        super().observe(feedback)

    def suspects(self) -> Tensor:
        """Bool `[N]`: samples whose label is doubtful, worth a look by a person.

        As of the running epoch's beginning, by all visits so far, whatever the rules leave out of
        training; what was named early does not vanish as the model memorises it. No sample is named
        before the second epoch, where no logits come with the labels (`watch` the head), and as
        long as the model is hardly better than chance.

        Raises:
            InputError: there are no label rules, so no labels are remembered.
        """
        if self._labels is None:
            raise InputError(
                f"{self.name} runs without label rules, so it remembers no labels. Build it with "
                "label_rules=LabelRules() (of a DataAgent in its DataAgentConfig), or take the "
                "method label-aware."
            )
        statistics = self._statistics
        return self._labels.suspects(None if statistics is None else statistics.suspicion())

    def table(self) -> dict[str, NDArray[Any]]:
        """As every selector; and with label rules "suspected", bool `[N]`, as `suspects`."""
        own = {} if self._labels is None else {"suspected": self.suspects().numpy()}
        return {**super().table(), **own}

    def rules_in_words(self) -> str:
        """A clause about the rules: what they do now, or that there are none."""
        return "no label rules" if self._labels is None else self._labels.in_words()

    def describe(self) -> str:
        """The method, and the rules where there are some."""
        rules = "" if self._labels is None else f"; {self.rules_in_words()}"
        return super().describe() + rules

    def metrics(self) -> dict[str, float]:
        """As every selector; and the share of doubtful labels, where that rule is on."""
        own = {} if self._labels is None else self._labels.metrics()
        return {**super().metrics(), **own}

    def settings(self) -> dict[str, Any]:
        """The rules."""
        rules = None if self.label_rules is None else asdict(self.label_rules)
        return {**super().settings(), "label_rules": rules}
