"""What ranked methods share: one remembered score a sample, the highest are trained on."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from data_agent.errors import InputError
from data_agent.labels.ruled import RuledSelector
from data_agent.labels.rules import LabelRules
from data_agent.runtime.state import require_tensor
from data_agent.selecting.feedback import Feedback, MissingLogitsError
from data_agent.selecting.method import Method

__all__ = ["UNSEEN", "Scored", "logits_of"]
UNSEEN = float("inf")
"""The score of a sample that has none yet: it goes first."""


class Remembers(Method):
    """A method whose state is its tables: the tensors in the attributes named in `remembered`."""

    remembered: ClassVar[tuple[str, ...]] = ()

    def method_state(self) -> dict[str, Any]:
        """The tables."""
        return {name: getattr(self, name).clone() for name in self.remembered}

    def load_method_state(self, state: dict[str, Any]) -> None:
        """Take over all tables, or none."""
        tables = {
            name: require_tensor(state, name, shape=tuple(table.shape), dtype=table.dtype)
            for name, table in self.method_state().items()
        }
        self.__dict__.update(tables)


class Scored(Remembers, RuledSelector):
    """Keeps each sample's score at its last visit, and takes the highest; four bytes a sample.

    To write one, define `name` and `score`.

    Args:
        label_rules: as `RuledSelector`; refused where a method does not take the highest.
        base: as `Selector`.
    """

    remembered = ("scores",)

    def __init__(self, *, label_rules: LabelRules | None = None, **base: Any) -> None:
        if label_rules is not None and type(self).choose is not Scored.choose:
            raise InputError(
                f"{self.name} does not rank its samples, so label rules cannot be put on it. Leave "
                "out label_rules, or take a method that ranks (top-loss, entropy, data-agent)."
            )
        super().__init__(label_rules=label_rules, **base)
        self.scores = torch.full((self.schedule.num_samples,), UNSEEN)

    def score(self, feedback: Feedback) -> Tensor:
        """How much each sample of a batch is wanted from now on: float `[B]`, finite."""
        del feedback
        raise NotImplementedError(f"{type(self).__name__} must define score().")

    def record(self, feedback: Feedback) -> Tensor:
        """The scores, `[B, 1]`."""
        return self.score(feedback).float().unsqueeze(1)

    def sample_scores(self) -> Tensor:
        """The scores."""
        return self.scores

    def merge(self, index: Tensor, values: Tensor) -> None:
        """The last visit's score replaces the one before."""
        self.scores[index] = values[:, 0]

    def choose(self, epoch: int, count: int, excluded: Tensor) -> Tensor:
        """The highest scores; equal ones are drawn."""
        return self.take_highest(self.scores, epoch, count, excluded)


def logits_of(feedback: Feedback, name: str, *, instead: str = "") -> Tensor:
    """The batch's logits, float32 `[B, C]`, for the method `name`.

    Raises:
        MissingLogitsError: none came; the message names what could come `instead`.
    """
    if feedback.logits is None:
        raise MissingLogitsError(
            f"{name} reads the model's predictions, and no logits [B, C] came: call "
            "selector.watch(head) before training, or pass logits= to learn() or Feedback(...)"
            + (f"; a task without them passes {instead}." if instead else ".")
        )
    return feedback.logits.float()
