"""Where labels are wrong, told by what the model sees of a sample, and not by its label.

A label that was drawn at random is among the k least likely of C classes in k / (C - 1) of the
cases, whatever the model knows; a right one hardly ever, however hard the sample is. So the noise
rate of labels at x, the share that is wrong among samples like x, is about
`eta(x) = (C - 1) / k P(late | x)`, with k a tenth of the classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from data_agent.labels.margins import comes_late, num_first
from data_agent.runtime.random import Purpose, derived_seed, position_hash
from data_agent.selecting.feedback import Feedback
from data_agent.trusted.contrast import Contrast, shown
from data_agent.trusted.signals import NO_CLASS, row_classes, row_signals
from data_agent.trusted.table import LikenessTable
from data_agent.trusted.window import FOLDS, POOL, WindowRows

MOST_NOISE = 0.95  # a sample is looked at again, however sure the estimate is
_RIDGE = 1.0


def noise_rate(odds: Tensor, share: float, num_classes: int) -> Tensor:
    """The noise rate in [0, 0.95]: `sigmoid(odds + log(p / (1 - p))) / q` with `p = q share`.

    Args:
        odds: float32 `[M]`, `log p(x | late) - log p(x | not late)`.
        share: of all labels that are wrong, in [0, 1]; where it is 0, so is eta.
        num_classes: C, 2 or more; `q = k / (C - 1)`, how often a wrong label comes late.
    """
    if share <= 0:
        return torch.zeros_like(odds)
    q = num_first(num_classes) / (num_classes - 1)
    late = min(q * share, MOST_NOISE)
    level = math.log(late) - math.log1p(-late)
    return (torch.sigmoid(odds + level) / q).clamp(max=MOST_NOISE)


class LatePlace(Contrast):
    """How much likelier a sample is among those whose label comes late: log-odds, in nats.

    Read from the entropy of the outputs, the highest probability and the features: the loss and the
    label itself would say the same of a right label that is hard. It stays right whichever samples
    are chosen by these, since it compares labels of samples that look alike.

    Args:
        seed: of which samples are left out of a regression together.
    """

    def __init__(self, *, seed: int) -> None:
        super().__init__(ridge=_RIDGE)
        self._fold_seed = derived_seed(seed, Purpose.TRUSTED)

    def rate(self, feedback: Feedback, step: Tensor) -> Tensor:
        """Log-odds of rows as learned so far, float32 `[M]` on the host; the rows are kept.

        Args:
            feedback: rows with logits and labels; those without a class are rated, not kept.
            step: int64 `[M]` on the host, the batch of each.
        """
        assert feedback.logits is not None
        label = row_classes(feedback)
        is_late = comes_late(feedback.logits, label.clamp(min=0))
        sign = torch.where(label == NO_CLASS, NO_CLASS, is_late.long())
        seen = row_signals(feedback.having(labels=None, uncertainty=None))[:, 1:]  # not the loss
        signals, features, sign = shown(seen, feedback, sign)
        fold = 1 + position_hash(feedback.index, self._fold_seed) % FOLDS
        kind = torch.where(sign == 1, fold, POOL)
        classes = torch.full_like(kind, NO_CLASS)
        self._window.add(WindowRows(signals, features, classes, kind, step).at(sign != NO_CLASS))
        return self.odds(signals, features, classes)

    def metrics(self) -> dict[str, float]:
        """How well the rows left out are told apart, 0.5 is chance, and what of the odds holds."""
        if self._likeness is None:
            return {}
        found = {"noise_calibration": self._slope.value}
        return found if self.left_out is None else {"noise_separation": self.left_out, **found}


class NoiseRateTable(LikenessTable):
    """A moving average of each sample's odds; drawn in proportion to `(1 - eta)^sharpness`.

    Args:
        num_samples: N.
        seed: of the draws.
        memory: as `LikenessTable`.
        sharpness: as there.
        level: gives the estimated share of wrong labels, and the number of classes.
    """

    def __init__(
        self,
        num_samples: int,
        *,
        seed: int,
        memory: float,
        sharpness: float,
        level: Callable[[], tuple[float, int]],
    ) -> None:
        super().__init__(num_samples, seed=seed, memory=memory, sharpness=sharpness)
        self._level = level

    def reward(self, average: Tensor) -> Tensor:
        """log(1 - eta), float32 `[M]`."""
        return torch.log1p(-noise_rate(average, *self._level()))

    def expected_actions(self) -> Tensor:
        """float32 `[N]`: how likely the label is right, 1 - eta."""
        return 1 - noise_rate(self.averages(), *self._level())
