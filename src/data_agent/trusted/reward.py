"""The reward that trusted rows teach, learned online from the feedback that comes anyway."""

from __future__ import annotations

import warnings
from typing import Literal

import torch
from torch import Tensor

from data_agent.errors import DataAgentWarning
from data_agent.runtime.random import Purpose, derived_seed, position_hash
from data_agent.selecting.feedback import Feedback
from data_agent.trusted.contrast import Contrast, shown
from data_agent.trusted.signals import row_classes, row_signals
from data_agent.trusted.window import FOLDS, POOL, WindowRows

ClassShares = Literal["trusted", "data"]
"""Whose class shares an epoch shall have."""

_SEPARATION, _LEFT_OUT = "trusted_separation", "trusted_separation_held_back"
_SLOPE = "trusted_calibration"
_MUCH = 0.4  # nats: half as many again
_NAMED = 5
_COINCIDENCE = 1e-6  # that so many rows are of one class by chance
_LITTLE = 0.1  # of a slope: choices are as good as uniform


class TrustedReward(Contrast):
    """How much likelier a row is among the trusted ones than among all: `D(s, y)`, in nats.

    Args:
        is_trusted: bool `[N]`.
        seed: of which trusted rows are left out of a regression together.
        ridge: of the regression, above 0.
        class_shares: whose class shares are asked for, see `TrustedConfig`.
    """

    def __init__(
        self,
        is_trusted: Tensor,
        *,
        seed: int,
        ridge: float,
        class_shares: ClassShares = "trusted",
    ) -> None:
        super().__init__(ridge=ridge, keeps_shares=class_shares == "data")
        self._has_warned = False
        rows = is_trusted.nonzero().squeeze(1)
        order = position_hash(rows, derived_seed(seed, Purpose.TRUSTED)).argsort(stable=True)
        self._kind = torch.full((len(is_trusted),), POOL, dtype=torch.int8)
        fold = torch.arange(len(rows), dtype=torch.int8) % FOLDS
        self._kind[rows[order]] = 1 + fold
        self._fold_sizes = torch.bincount(fold, minlength=FOLDS).tolist()
        self._can_judge = len(rows) > 1  # of one row none is left out

    def rate(self, feedback: Feedback, uniform: Tensor, step: Tensor) -> Tensor:
        """D of rows as it was learned so far, and keep of them what is learned from next.

        Args:
            feedback: the rows of one or several batches.
            uniform: bool `[M]` on the host, rows that were drawn uniformly from all data.
            step: int64 `[M]` on the host, the batch of each.

        Returns:
            float32 `[M]` on the host; zeros before the first regression.
        """
        parts = _parts(feedback)
        kind = self._kind[feedback.index].long()
        tells = (kind != POOL) | uniform
        self._window.add(WindowRows(*parts, kind, step).at(tells))
        return self.odds(*parts)

    def peek(self, feedback: Feedback) -> Tensor:
        """D of rows as it was learned so far, float32 `[M]` on the host; nothing is kept."""
        return self.odds(*_parts(feedback))

    def look_at(self, marked: Tensor, others: Tensor) -> None:
        """Warn once where trusted rows are of one class and that is no coincidence."""
        if not self._keeps_shares:
            self._warn_of_one_class(marked, others)

    def size_of(self, fold: int, num_visits: int) -> int:
        """How many trusted rows a fold has, however often they were visited."""
        del num_visits
        return self._fold_sizes[fold]

    def metrics(self) -> dict[str, float]:
        """How well trusted rows can be told from others, and how much of that holds.

        The first are areas under the ROC curve, where 0.5 is chance: of the rows that the last
        regression was fitted on, and the mean over the last five of those that each left out, where
        these had ten visits of trusted rows. The calibration in [0, 1] is what the log-odds are
        multiplied by.
        """
        if self._likeness is None:
            return {}
        return {
            _SEPARATION: self._separation,
            **({} if self.left_out is None else {_LEFT_OUT: self.left_out}),
            _SLOPE: self._slope.value,
        }

    def in_words(self) -> str:
        """Which classes it asks for more of and for less of, and how well it tells rows apart."""
        if not self._can_judge:
            return "one row alone teaches nothing"
        if self._likeness is None:
            return "nothing learned yet"
        slope = self._slope.value
        if slope < _LITTLE:
            return "nothing that holds for rows left out, so the choice is nearly uniform"
        words = (
            ["class shares as in the data"]
            if self._keeps_shares
            else _classes_in_words(slope * self._likeness.by_class)
        )
        if (share := self.left_out) is not None:
            words.append(f"ranks a trusted row above another in {100 * share:.0f} % of pairs")
        return ", ".join(words) or "learned without classes"

    def _warn_of_one_class(self, trusted: Tensor, others: Tensor) -> None:
        """Warn once where trusted rows are of one class and that is no coincidence."""
        only, others = int(trusted[0]), others[others >= 0]
        if self._has_warned or only < 0 or bool((trusted != only).any()) or not len(others):
            return
        share = float((others == only).double().mean())
        if share ** len(trusted) < _COINCIDENCE:
            self._has_warned = True
            warnings.warn(
                f"all {len(trusted)} visits of trusted rows in the last steps are of class {only}, "
                f"of {len(others)} visits of other rows {100 * share:.0f} % are: the agent will "
                "ask for that class and leave the others out. Trust rows with the class shares of "
                "the data that the model will be judged on.",
                DataAgentWarning,
                stacklevel=2,
            )


def _parts(feedback: Feedback) -> tuple[Tensor, Tensor, Tensor]:
    return shown(row_signals(feedback), feedback, row_classes(feedback))


def _classes_in_words(by_class: Tensor) -> list[str]:
    """Of offsets `[C]` in nats: which classes are asked for more and less; none without classes."""
    if not len(by_class):
        return []
    offset = by_class - by_class.mean()
    kinds = (("more", offset > _MUCH), ("less", offset < -_MUCH))
    return [
        f"{name} of {'classes' if is_it.sum() > 1 else 'class'} {_listed(is_it.nonzero())}"
        for name, is_it in kinds
        if is_it.any()
    ] or ["all classes alike"]


def _listed(found: Tensor) -> str:
    names = found.flatten().tolist()
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(map(str, names[:_NAMED])) + more
