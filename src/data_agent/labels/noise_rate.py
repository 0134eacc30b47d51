"""Where labels are wrong, told by what the model sees of a sample, and not by its label.

A label that was drawn at random comes last among the outputs once in C - 1 times whatever the model
knows, a right one hardly ever, however hard the sample is. So the noise rate of labels at x, their
share that is wrong among samples like x, is about `eta(x) = (C - 1) P(last | x)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from data_agent.labels.margins import judge
from data_agent.runtime.random import Purpose, derived_seed, position_hash
from data_agent.selecting.feedback import Feedback
from data_agent.trusted.contrast import Contrast, shown
from data_agent.trusted.signals import NO_CLASS, row_classes
from data_agent.trusted.table import LikenessTable
from data_agent.trusted.window import FOLDS, POOL, WindowRows

MOST_NOISE = 0.95  # a sample is looked at again, however sure the estimate is
_RIDGE = 1.0


def noise_rate(odds: Tensor, last: float, num_classes: int) -> Tensor:
    """Eta in [0, 0.95] of samples: `(C - 1) sigmoid(odds + log(last / (1 - last)))`.

    Args:
        odds: float32 `[M]`, `log p(x | last) - log p(x | not last)`.
        last: share of all labels that come last, in [0, 1); with 0 no label is wrong.
        num_classes: C, 2 or more.
    """
    if last <= 0:
        return torch.zeros_like(odds)
    level = math.log(last) - math.log1p(-last)
    return ((num_classes - 1) * torch.sigmoid(odds + level)).clamp(max=MOST_NOISE)


class LastPlace(Contrast):
    """How much likelier a sample is among those whose label comes last: log-odds, in nats.

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
        is_last = judge(feedback.logits, label.clamp(min=0)).last > 0.5
        sign = torch.where(label == NO_CLASS, NO_CLASS, is_last.long())
        signals, features, sign = shown(_signals(feedback.logits), feedback, sign)
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
        level: gives the share of labels that come last, and the number of classes.
        table: as `LikenessTable`.
    """

    def __init__(self, *table: int, level: Callable[[], tuple[float, int]], **more: float) -> None:
        super().__init__(*table, **more)  # pyright: ignore[reportArgumentType]
        self._level = level

    def reward(self, average: Tensor) -> Tensor:
        """log(1 - eta), float32 `[M]`."""
        return torch.log1p(-noise_rate(average, *self._level()))

    def expected_actions(self) -> Tensor:
        """float32 `[N]`: how likely the label is right, 1 - eta."""
        return 1 - noise_rate(self.averages(), *self._level())


def _signals(logits: Tensor) -> Tensor:
    """Entropy over log C and highest probability, float32 `[B, 2]`."""
    log_p = torch.log_softmax(logits.float(), dim=1)
    p = log_p.exp()
    entropy = -(p * log_p).sum(1) / math.log(logits.shape[1])
    return torch.stack([entropy, p.amax(1)], dim=1)
