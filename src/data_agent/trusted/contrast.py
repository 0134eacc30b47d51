"""Two kinds of rows told apart online: a regression on rows of late steps, and what of it holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from data_agent.errors import CheckpointError
from data_agent.selecting.feedback import Feedback
from data_agent.trusted.calibration import CalibrationSlope
from data_agent.trusted.likeness import Likeness, fit, separation
from data_agent.trusted.window import FOLDS, POOL, Window

WINDOW_STEPS = 80  # a regression shall see the model as it is, not as it was
WINDOW_ROWS = 4096  # of each kind
WINDOW_MARKED = 64  # visits of marked rows that it reaches back for beyond these steps
PERIODS = 8  # of the window, in each of which both kinds of rows weigh the same
FEWEST_ROWS = 8  # of each kind, before anything is fitted
FEWEST_LEFT_OUT = 10  # visits, before anything is said of how well they are told apart


class Contrast:
    """How much likelier a row is of the marked kind than of the other one: log-odds, in nats.

    Rows are marked by their kind, a fold from 1 to `FOLDS`; the others are `POOL`.

    Args:
        ridge: of the regression, above 0.
        keeps_shares: whether the kinds' class shares are not to be learned.
    """

    def __init__(self, *, ridge: float, keeps_shares: bool = False) -> None:
        self._ridge = ridge
        self._keeps_shares = keeps_shares
        self._window = Window(WINDOW_STEPS, least_trusted=WINDOW_MARKED, max_rows=WINDOW_ROWS)
        self._likeness: Likeness | None = None
        self._slope = CalibrationSlope(FOLDS)
        self._separation = 0.5
        self._of_folds: dict[int, float] = {}
        self._num_shared = 0
        self._can_judge = True  # some rows are left out of each regression

    def odds(self, signals: Tensor, features: Tensor, classes: Tensor) -> Tensor:
        """Log-odds as learned so far, float32 `[M]`; zeros before the first regression.

        Args:
            signals: float32 `[M, S]`.
            features: float32 `[M, D]`, D of 0 without any.
            classes: int64 `[M]`, -1 for none.
        """
        if self._likeness is None:
            return torch.zeros(len(signals))
        odds = self._likeness(torch.cat([signals, features], 1), classes)
        return (self._slope.value * odds).float()

    def update(self) -> bool:
        """Fit the regression to four fifths of the rows of the last steps, judge it by the rest.

        Each regression leaves out the next fifth, so that every marked row is learned from and
        judged by. A collective call on several ranks.

        Returns:
            Whether it was fitted: there were rows of both kinds, and new ones of the other kind.
        """
        rows = self._window.share()
        if rows is None:
            return False
        fold = self._num_shared % FOLDS
        self._num_shared += 1
        if not self._can_judge:
            return False
        is_marked, period = rows.kind != POOL, _periods(rows.step)
        left_out = torch.where(is_marked, rows.kind == 1 + fold, _every_fifth(rows.kind, fold))
        group = rows.classes + 1 if self._keeps_shares else None
        of_fitted, of_judged = (
            (is_marked[of], period[of], None if group is None else group[of])
            for of in (~left_out, left_out)
        )
        fitted = rows.at(~left_out)
        if min(int(of_fitted[0].sum()), int((~of_fitted[0]).sum())) < FEWEST_ROWS:
            return False
        self.look_at(rows.classes[is_marked], rows.classes[~is_marked])
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
        judged, num_marked = score[left_out], int(of_judged[0].sum())
        self._slope.update(judged, *of_judged, num_trusted=self.size_of(fold, num_marked))
        self._separation = separation(score[~left_out], *of_fitted)
        if num_marked >= FEWEST_LEFT_OUT:
            self._of_folds[fold] = separation(judged, *of_judged)
        return True

    def look_at(self, marked: Tensor, others: Tensor) -> None:
        """Called with the classes of both kinds, int64, before they are fitted."""

    def size_of(self, fold: int, num_visits: int) -> int:
        """How many different rows the visits of a fold are of."""
        del fold
        return num_visits

    @property
    def left_out(self) -> float | None:
        """Area under the ROC curve of rows that were left out, the mean over the folds."""
        return sum(self._of_folds.values()) / len(self._of_folds) if self._of_folds else None

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
            raise CheckpointError("how well rows are told apart is not in [0, 1].")
        self._likeness = None if learned is None else Likeness.from_state(learned)
        self._slope.load_state_dict(state["slope"])
        self._separation, self._of_folds = separation, of_folds
        self._num_shared = int(state["num_shared"])
        self._window.load_state_dict(state["window"])


def shown(signals: Tensor, feedback: Feedback, classes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Signals, features and classes, float32 `[M, S]` and `[M, D]`, int64 `[M]`, on the host.

    The host waits once for all of them. Numbers of classes up to 2^24 are float32 values.
    """
    columns, features = [signals, classes.unsqueeze(1)], feedback.features
    if features is not None:
        columns.append(features.float())
    all_of_it, at = torch.cat(columns, dim=1).cpu(), signals.shape[1]
    return all_of_it[:, :at], all_of_it[:, at + 1 :], all_of_it[:, at].long()


def _periods(step: Tensor) -> Tensor:
    """int64 `[R]`: in which of so many equal parts of the steps each row came."""
    first, last = int(step.min()), int(step.max())
    return (step - first) * PERIODS // (last - first + 1)


def _every_fifth(rows: Tensor, fold: int) -> Tensor:
    return torch.arange(len(rows)) % FOLDS == fold
