"""AFSS: images that the detector does well on are seen rarely, but never forgotten.

Xie et al. 2026, "Does YOLO Really Need to See Every Training Image in Every Epoch?" (CVPR),
https://arxiv.org/abs/2603.17684: the lower of an image's precision and recall, S, is looked up
every five epochs. Of easy images (S > 0.85) an epoch has 2 %, those first that no epoch had for ten
epochs, but these at most half of the 2 %; of moderate ones 40 %, those first that no epoch had for
three; all hard ones (S < 0.55).

Departures. The paper's budget is what these shares come to. At the exact budget:

- The three parts are scaled to the epoch in proportion. Where easy and moderate images are so many
  that the parts do not fill it, moderate ones fill it up, then easy ones.
- Where not all hard images fit, those come first that no epoch had for longest.
- The first pass over all images takes the place of the paper's ten full epochs.

The shares, the borders and the intervals are those of a summary of the paper; no code of the
authors is public. What counts as found, and with what confidence, is the loop's choice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from data_agent.baselines.refreshed import Refreshed
from data_agent.errors import StateError
from data_agent.runtime.random import Purpose, derived_seed, position_hash

EASY, HARD = 0.85, 0.55
SHARES = (1.0, 0.4, 0.02)  # of hard, moderate and easy images
DUE = (0, 3, 10)  # epochs without a visit after which they come first
MOST_REVIEWED = 0.5  # of the easy part


class AFSS(Refreshed):
    """Takes images by the lower of precision and recall, and by how long none was seen.

    `refresh` is to be called with S: the lower of the shares of an image's detections that are
    right and of its objects that are found.
    """

    name = "afss"
    reads = ()
    default_schedule = "to-the-end"
    remembered = ("goodness", "last")

    def __init__(self, **base: Any) -> None:
        super().__init__(**base)
        self.last = torch.full((self.schedule.num_samples,), -1)
        """int64 `[N]`: the epoch that last had each image; -1 for none."""

    def epoch_ends(self, epoch: int, index: Tensor) -> None:
        """These images were seen."""
        self.last[index] = epoch

    def sample_scores(self) -> Tensor:
        """How much is left to learn of each image."""
        return 1 - self.goodness

    def metrics(self) -> dict[str, float]:
        """As every selector; and the shares of hard and of easy images."""
        level = levels(self.goodness)
        shares = (level.bincount(minlength=3) / len(level)).tolist()
        return {**super().metrics(), "hard_share": shares[0], "easy_share": shares[2]}

    def choose(self, epoch: int, count: int, excluded: Tensor) -> Tensor:
        """The parts of hard, moderate and easy images.

        Raises:
            StateError: `refresh` was never called.
        """
        places = (~excluded).nonzero().squeeze(1)
        if count == len(places):
            return places
        if self.goodness.isnan().all():
            raise StateError(
                "afss chooses by how good the model is on each sample, and refresh() was never "
                "called. After each epoch: `if selector.is_due(epoch + 1): "
                "selector.refresh(goodness)`, with the lower of precision and recall of every "
                "image."
            )
        level, age = levels(self.goodness)[places], epoch - 1 - self.last[places]
        order = position_hash(places, derived_seed(self.seed, Purpose.PRUNE, epoch))
        chosen: list[Tensor] = []
        for number, size in enumerate(parts_of(level.bincount(minlength=3).tolist(), count)):
            own = (level == number).nonzero().squeeze(1)
            most = math.floor(MOST_REVIEWED * size) if number == 2 else size
            first = take(age[own], order[own], size, due=DUE[number], most_due=most)
            chosen.append(places[own[first]])
        return torch.cat(chosen)


def levels(goodness: Tensor) -> Tensor:
    """int64 `[N]`: 0 hard, 1 moderate, 2 easy, of S in [0, 1], float `[N]`; NaN is hard."""
    return (goodness >= HARD).long() + (goodness > EASY).long()


def parts_of(sizes: Sequence[int], count: int) -> list[int]:
    """How many hard, moderate and easy images an epoch of `count` has, of so many that there are.

    The shares of each part are scaled to the epoch; what is left is filled up with moderate images,
    then with easy ones.
    """
    wanted = [share * size for share, size in zip(SHARES, sizes, strict=True)]
    scale = min(1.0, count / sum(wanted))
    parts = [math.floor(scale * part + 1e-9) for part in wanted]
    for place in (1, 2, 0):
        parts[place] += min(count - sum(parts), sizes[place] - parts[place])
    return parts


def take(age: Tensor, order: Tensor, count: int, *, due: int, most_due: int) -> Tensor:
    """Places of `count` images, int64: those due first, the others as drawn.

    Args:
        age: int64 `[M]`, for how many epochs each was not seen.
        order: `[M]`, the draw; equal ages go by it too.
        count: how many, at most M.
        due: age from which on an image is due; the oldest come first.
        most_due: how many of these come first.
    """
    drawn = order.argsort(stable=True)
    oldest = drawn[age[drawn].argsort(descending=True, stable=True)]
    first = oldest[age[oldest] >= due][: min(most_due, count)]
    is_first = torch.zeros(len(age), dtype=torch.bool)
    is_first[first] = True
    return torch.cat([first, drawn[~is_first[drawn]][: count - len(first)]])
