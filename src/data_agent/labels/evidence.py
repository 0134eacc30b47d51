"""What the outputs of a model say of all labels together: how many are wrong, and can it tell."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from data_agent.labels.margins import num_first


class Evidence(NamedTuple):
    """What the labels that were judged show.

    Args:
        share: of wrong ones in [0, most_share], as estimated: `(C - 1) x (share that comes last)`.
        num_last: labels that came last, alone or among equals.
        first: share in [0, 1] of those that the model ranks first.
    """

    share: float
    num_last: int
    first: float

    def is_near_chance(self, least_right: float) -> bool:
        """Whether fewer than `least_right` of the labels that it would believe rank first."""
        return self.first < least_right * (1 - self.share)

    def is_near_guessing(self, least_right: float, num_classes: int) -> bool:
        """The same of what ranks first beyond a guess, which of two classes is right in a half."""
        guess = num_first(num_classes) / num_classes
        return self.first - guess < (1 - guess) * least_right * (1 - self.share)


def evidence_of(num_of_signs: Tensor, num_classes: int, most_share: float) -> Evidence | None:
    """The evidence of all signs; None where no label was judged.

    Args:
        num_of_signs: int64 `[2, steps + 1]`, how many labels came last by so many of `steps`
            parts; in the second row those that rank first, in the first row all others.
        num_classes: C, outputs of the model; 0 while none is known.
        most_share: the largest share that is estimated, in [0, 1].
    """
    num_seen = int(num_of_signs.sum())
    if not (num_seen and num_classes):
        return None
    num_last, steps = num_of_signs.sum(0), num_of_signs.shape[1] - 1
    last = float((num_last * torch.arange(steps + 1)).sum()) / (steps * num_seen)
    return Evidence(
        share=min(most_share, (num_classes - 1) * last),
        num_last=int(num_last[1:].sum()),
        first=int(num_of_signs[1].sum()) / num_seen,
    )
