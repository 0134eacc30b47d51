"""The reward that trusted rows teach, learned online from the feedback that comes anyway."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from data_agent.errors import CheckpointError, DataAgentWarning
from data_agent.runtime.random import Purpose, derived_seed, position_hash
from data_agent.selecting.feedback import Feedback
from data_agent.trusted.calibration import CalibrationSlope
from data_agent.trusted.likeness import Likeness, fit, separation
from data_agent.trusted.signals import row_classes, row_signals
from data_agent.trusted.window import FOLDS, POOL, Window, WindowRows

ClassShares = Literal["trusted", "data"]
"""Whose class shares an epoch shall have."""

_SEPARATION, _LEFT_OUT = "trusted_separation", "trusted_separation_held_back"
_SLOPE = "trusted_calibration"
_MUCH = 0.4  # nats: half as many again
_NAMED = 5
_COINCIDENCE = 1e-6  # that so many rows are of one class by chance
WINDOW_STEPS = 80  # a regression shall see the model as it is, not as it was
WINDOW_ROWS = 4096  # of each kind
WINDOW_TRUSTED = 64  # visits of trusted rows that it reaches back for beyond these steps
PERIODS = 8  # of the window, in each of which both kinds of rows weigh the same
FEWEST_ROWS = 8  # of each kind, before anything is fitted
FEWEST_LEFT_OUT = 10  # visits, before anything is said of how well they are told apart
_LITTLE = 0.1  # of a slope: choices are as good as uniform


class TrustedReward:
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
        self._ridge = ridge
        self._keeps_shares = class_shares == "data"
        self._window = Window(WINDOW_STEPS, least_trusted=WINDOW_TRUSTED, max_rows=WINDOW_ROWS)
        self._likeness: Likeness | None = None
        self._slope = CalibrationSlope(FOLDS)
        self._separation = 0.5
        self._of_folds: dict[int, float] = {}
        self._num_shared = 0
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
        shown = _shown(feedback)
        kind = self._kind[feedback.index].long()
        tells = (kind != POOL) | uniform
        self._window.add(WindowRows(*shown, kind, step).at(tells))
        return self._rated(*shown)

    def peek(self, feedback: Feedback) -> Tensor:
        """D of rows as it was learned so far, float32 `[M]` on the host; nothing is kept."""
        return self._rated(*_shown(feedback))

    def _rated(self, signals: Tensor, features: Tensor, classes: Tensor) -> Tensor:
        if self._likeness is None:
            return torch.zeros(len(signals))
        odds = self._likeness(torch.cat([signals, features], 1), classes)
        return (self._slope.value * odds).float()

    def update(self) -> bool:
        """Fit the regression to four fifths of the rows of the last steps, judge it by the rest.

        Each regression leaves out the next fifth, so that every trusted row is learned from and
        judged by. A collective call on several ranks.

        Returns:
            Whether it was fitted: there were rows of both kinds, and new ones drawn uniformly. Of
            one trusted row nothing is learned, since no other says whether it holds.
        """
        rows = self._window.share()
        if rows is None:
            return False
        fold = self._num_shared % FOLDS
        self._num_shared += 1
        if not self._can_judge:
            return False
        is_trusted, period = rows.kind != POOL, _periods(rows.step)
        left_out = torch.where(is_trusted, rows.kind == 1 + fold, _every_fifth(rows.kind, fold))
        group = rows.classes + 1 if self._keeps_shares else None
        of_fitted, of_judged = (
            (is_trusted[of], period[of], None if group is None else group[of])
            for of in (~left_out, left_out)
        )
        fitted = rows.at(~left_out)
        if min(int(of_fitted[0].sum()), int((~of_fitted[0]).sum())) < FEWEST_ROWS:
            return False
        if not self._keeps_shares:
            self._warn_of_one_class(rows.classes[is_trusted], rows.classes[~is_trusted])
        self._likeness = fit(
            torch.cat([fitted.signals, fitted.features], 1),
            fitted.classes,
            of_fitted[0],
            num_features=fitted.features.shape[1],
            num_classes=1 + max(-1, int(rows.classes.max())),
            ridge=self._ridge,
            period=of_fitted[1],
            group=of_fitted[2],
            start=self._likeness,
        )
        score = self._likeness(torch.cat([rows.signals, rows.features], 1), rows.classes)
        judged = score[left_out]
        self._slope.update(judged, *of_judged, num_trusted=self._fold_sizes[fold])
        self._separation = separation(score[~left_out], *of_fitted)
        if of_judged[0].sum() >= FEWEST_LEFT_OUT:
            self._of_folds[fold] = separation(judged, *of_judged)
        return True

    def metrics(self) -> dict[str, float]:
        """How well trusted rows can be told from others, and how much of that holds.

        The first are areas under the ROC curve, where 0.5 is chance: of the rows that the last
        regression was fitted on, and the mean over the last five of those that each left out, where
        these had ten visits of trusted rows. The calibration in [0, 1] is what the log-odds are
        multiplied by.
        """
        if self._likeness is None:
            return {}
        left_out = self._left_out()
        return {
            _SEPARATION: self._separation,
            **({} if left_out is None else {_LEFT_OUT: left_out}),
            _SLOPE: self._slope.value,
        }

    def _left_out(self) -> float | None:
        return sum(self._of_folds.values()) / len(self._of_folds) if self._of_folds else None

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
        if (share := self._left_out()) is not None:
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

    def state_dict(self) -> dict[str, Any]:
        """Regression and rows; a collective call on several ranks."""
        learned = self._likeness
        return {
            "window": self._window.state_dict(),
            "likeness": None if learned is None else learned.state_dict(),
            "slope": self._slope.state_dict(),
            "separation": self._separation,
            "of_folds": dict(self._of_folds),
            "num_shared": self._num_shared,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned.

        Raises:
            CheckpointError: tensors that do not belong together.
        """
        learned = state["likeness"]
        separation, of_folds = float(state["separation"]), dict(state["of_folds"])
        if not all(0 <= value <= 1 for value in (separation, *of_folds.values())):
            raise CheckpointError("how well trusted rows are told apart is not in [0, 1].")
        self._likeness = None if learned is None else Likeness.from_state(learned)
        self._slope.load_state_dict(state["slope"])
        self._separation, self._of_folds = separation, of_folds
        self._num_shared = int(state["num_shared"])
        self._window.load_state_dict(state["window"])


def _periods(step: Tensor) -> Tensor:
    """int64 `[R]`: in which of so many equal parts of the steps each row came."""
    first, last = int(step.min()), int(step.max())
    return (step - first) * PERIODS // (last - first + 1)


def _every_fifth(rows: Tensor, fold: int) -> Tensor:
    return torch.arange(len(rows)) % FOLDS == fold


def _shown(feedback: Feedback) -> tuple[Tensor, Tensor, Tensor]:
    """Signals, features and classes, float32 `[M, S]` and `[M, D]`, int64 `[M]`, on the host.

    The host waits once for all of them. Numbers of classes up to 2^24 are float32 values.
    """
    signals, features = row_signals(feedback), feedback.features
    columns = [signals, row_classes(feedback).unsqueeze(1)]
    if features is not None:
        columns.append(features.float())
    all_of_it, at = torch.cat(columns, dim=1).cpu(), signals.shape[1]
    return all_of_it[:, :at], all_of_it[:, at + 1 :], all_of_it[:, at].long()


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
