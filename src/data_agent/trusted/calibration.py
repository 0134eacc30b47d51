"""How much of what was learned from trusted rows holds for rows that it was not learned from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from data_agent.errors import CheckpointError
from data_agent.trusted.likeness import balanced

MEMORY = 0.9  # of earlier regressions: about two rounds of folds
PRIOR = 4.0  # of evidence that the odds are right: a standard deviation of one half


class CalibrationSlope:
    """The slope s in [0, 1] that odds are multiplied by, from rows left out of the regression.

    A regression of few rows says more than it knows. On rows that it was not fitted on, a logistic
    regression with its log-odds D as the only input has a slope of 1 where they are right and 0
    where they are chance (Cox 1958; as a factor of shrinkage Copas 1983). It is followed online by
    Newton's steps: `s <- s + g / (h + 4)` with `g` the slope of the log-likelihood of the rows just
    left out, and `h` a fading sum of its curvatures. It begins at 1, and evidence of 4 holds it
    there. A row counts once, however often it was visited and left out: a dozen rows prove little.

    Args:
        num_folds: of which one at a time is left out.
    """

    def __init__(self, num_folds: int) -> None:
        self.value = 1.0
        self._once = (1 - MEMORY) * num_folds
        self._curvature = 0.0

    def update(
        self,
        score: Tensor,
        is_trusted: Tensor,
        period: Tensor,
        group: Tensor | None = None,
        *,
        num_trusted: int,
    ) -> None:
        """Learn from rows that were left out of the last regression.

        Args:
            score: D of their visits, float64 `[R]`.
            is_trusted: bool `[R]`.
            period: int64 `[R]`, 0 or more, in each of which both kinds weigh the same.
            group: int64 `[R]`, 0 or more, of which both kinds have the same shares; None for any.
            num_trusted: how many trusted rows these are visits of.
        """
        if not bool(is_trusted.any()) or bool(is_trusted.all()):
            return
        repeats = max(1.0, int(is_trusted.sum()) / max(1, num_trusted))
        weight = self._once / repeats * balanced(is_trusted, period, group)
        p = torch.sigmoid(self.value * score)
        gradient = float((weight * (is_trusted.double() - p) * score).sum())
        curvature = float((weight * p * (1 - p) * score.square()).sum())
        self._curvature = MEMORY * self._curvature + curvature
        gradient += (1 - MEMORY) * PRIOR * (1 - self.value)
        self.value = min(1.0, max(0.0, self.value + gradient / (self._curvature + PRIOR)))

    def state_dict(self) -> dict[str, float]:
        """Slope and evidence."""
        return {"value": self.value, "curvature": self._curvature}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned.

        Raises:
            CheckpointError: a slope outside [0, 1], or evidence below 0.
        """
        value, curvature = float(state["value"]), float(state["curvature"])
        if not 0 <= value <= 1 or not 0 <= curvature < float("inf"):
            raise CheckpointError(
                f"the calibration of trusted rows is damaged: a slope of {value}, evidence of "
                f"{curvature}."
            )
        self.value, self._curvature = value, curvature
