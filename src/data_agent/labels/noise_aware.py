"""Samples drawn less where labels look random: learned from labels alone, nothing is trusted.

Our own: docs/decisions/0020-noise-rate.md has its reasons, docs/method.md its formulas.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from data_agent.budget.schedule import ScheduleKind
from data_agent.errors import InputError
from data_agent.labels.noise_rate import LatePlace, NoiseRateTable
from data_agent.labels.ruled import RuledSelector
from data_agent.labels.rules import LabelRules
from data_agent.runtime import distributed
from data_agent.selecting.cadence import Cadence
from data_agent.selecting.feedback import Feedback
from data_agent.trusted.policy import Reduced

_SHARPNESS, _MEMORY = 2.0, 0.5
_UPDATE_EVERY, _MAX_UPDATES = 10, 640


class NoiseAware(RuledSelector):
    """Draws samples in proportion to `(1 - eta(x))^2`, with equal class shares.

    eta(x) is the noise rate of labels among samples that look like x to the model: where labels
    are as good as random nothing can be learned, and visits go elsewhere. Every `learn` must bring
    labels, logits and features.

    Args:
        label_rules: which further rules, and their thresholds.
        base: as `Selector`.

    Raises:
        InputError: a value outside its range, or no rules.
    """

    name: ClassVar[str] = "noise-aware"
    needs_labels: ClassVar[bool] = True
    needs_logits: ClassVar[bool] = True
    needs_features = True
    reads = ("logits", "features", "labels")
    default_schedule: ClassVar[ScheduleKind] = "to-the-end"
    explore = 0.1

    def __init__(self, *, label_rules: LabelRules | None = None, **base: Any) -> None:
        rules = LabelRules(doubtful_labels=False) if label_rules is None else label_rules
        super().__init__(label_rules=rules, **base)
        assert self._labels is not None
        self._learner = LatePlace(seed=self.seed)
        self._num_updates = 0
        self._cadence = Cadence(_UPDATE_EVERY, fewest_rows=1, most_updates=_MAX_UPDATES)
        self._reduced = Reduced(self.seed)
        self._width: int | None = None  # of features; a restored run's first batch says it anew
        self._table = NoiseRateTable(
            self.schedule.num_samples,
            seed=self.seed,
            memory=_MEMORY,
            sharpness=_SHARPNESS,
            level=self._labels.noise_level,
        )

    def choose(self, epoch: int, count: int, excluded: Tensor) -> Tensor:
        """A draw by noise rates, classes permitting."""
        return self.take_highest(self._table.scores(epoch), epoch, count, excluded)

    def examine(self, feedback: Feedback) -> Feedback:
        """Features reduced to 64 columns at most.

        Raises:
            InputError: no logits or no features came, or features of another width than before.
        """
        missing = [name for name in ("logits", "features") if getattr(feedback, name) is None]
        if missing:
            raise InputError(
                f"{self.name} reads outputs and features, and no {' and no '.join(missing)} came: "
                "call selector.watch(head) before training, or pass logits=[B, C] and "
                "features=[B, D] to learn() or Feedback(...)."
            )
        assert feedback.features is not None
        width = feedback.features.shape[1]
        if self._width not in (None, width):
            raise InputError(
                f"features came {width} wide; so far they were {self._width} wide. Samples are "
                "compared by them: pass the same layer's in every batch."
            )
        self._width = width
        return self._reduced(feedback)

    def record(self, feedback: Feedback) -> Tensor:
        """Rate the rows; their odds go to the table."""
        steps = self._cadence.steps_of(feedback.sizes)
        return self._table.rows(self._learner.rate(feedback, steps))

    def after_observe(self, num_rows: int) -> None:
        """Fit the regression where it is due."""
        rows_a_step = self.schedule.batch_size or num_rows
        if self._cadence.count(rows_a_step, self.schedule.total_visits):
            with distributed.together("a regression"):
                self.settle()
                self._num_updates += self._learner.update()

    def merge(self, index: Tensor, values: Tensor) -> None:
        """Take the last epoch's odds into the table."""
        self._table.merge(index, values)

    def metrics(self) -> dict[str, float]:
        """As every selector; and what was learned, and the share of all rows that is avoided."""
        own = {
            "policy_updates": float(self._num_updates),
            "avoided_share": self._table.avoided(self.schedule.num_kept),
        }
        return {**super().metrics(), **self._learner.metrics(), **own}

    def describe(self) -> str:
        """What is avoided, and the rules."""
        share = self._table.avoided(self.schedule.num_kept)
        return f"noise rate of labels: avoids {100 * share:.0f} % of rows; {self.rules_in_words()}"

    def sample_scores(self) -> Tensor:
        """float32 `[N]`: how likely each label is right, 1 - eta."""
        return self._table.expected_actions()

    def method_state(self) -> dict[str, Any]:
        """Regression, averages, counters."""
        return {
            "learner": self._learner.state_dict(),
            "table": self._table.state_dict(),
            "num_updates": self._num_updates,
            **self._cadence.state_dict(),
        }

    def load_method_state(self, state: dict[str, Any]) -> None:
        """Take over what `method_state` returned."""
        self._cadence.load_state_dict(state)
        self._num_updates = int(state["num_updates"])
        self._table.load_state_dict(state["table"])
        self._learner.load_state_dict(state["learner"])
