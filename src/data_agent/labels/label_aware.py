"""Label rules without a policy: all samples by turns, classes alike, doubtful labels left out.

Our own: docs/decisions/0010-labels.md has its reasons, docs/method.md its formulas. Class shares
need labels alone. Which labels are doubtful is told by logits; where none come, none is left out.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from data_agent.budget.schedule import ScheduleKind
from data_agent.labels.ruled import RuledSelector
from data_agent.labels.rules import LabelRules
from data_agent.labels.turns import Turns


class LabelAware(RuledSelector):
    """Samples of a class come by turns, within what label rules allow.

    It learns no ranking: within a class no ranking of any method beat a uniform draw where it was
    measured (docs/decisions/0010-labels.md). Every `learn` must bring labels.

    Args:
        label_rules: which rules, and their thresholds.
        base: as `Selector`.

    Raises:
        InputError: a value outside its range, or no rules.
    """

    name: ClassVar[str] = "label-aware"
    needs_labels: ClassVar[bool] = True
    default_schedule: ClassVar[ScheduleKind] = "to-the-end"
    explore = 0.1

    def __init__(self, *, label_rules: LabelRules | None = None, **base: Any) -> None:
        super().__init__(label_rules=LabelRules() if label_rules is None else label_rules, **base)
        self._turns = Turns(self.schedule.num_samples, self.seed)

    def choose(self, epoch: int, count: int, excluded: Tensor) -> Tensor:
        """Those whose turn it is, classes and doubtful labels permitting."""
        return self.take_by_turns(self._turns, epoch, count, excluded)

    def epoch_ends(self, epoch: int, index: Tensor) -> None:
        """The samples that were in it had their turn."""
        self.end_turns(self._turns, index)
        phases = [self.schedule.plan(at).phase for at in (epoch, epoch + 1)]
        if phases[0] != phases[1] == "final":
            self._turns.begin_anew()  # so that the final phase is fair in itself

    def describe(self) -> str:
        """The rules."""
        return f"label rules: {self.rules_in_words()}; no policy"

    def method_state(self) -> dict[str, Any]:
        """The turns."""
        return self._turns.state_dict()

    def load_method_state(self, state: dict[str, Any]) -> None:
        """Take over what `method_state` returned."""
        self._turns.load_state_dict(state)
