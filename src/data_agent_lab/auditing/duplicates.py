"""Groups of near-duplicates for a person to look at."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from data_agent.duplicates import alike_pairs, stars


class Group(NamedTuple):
    """Near-duplicates, two or more."""

    members: NDArray[np.int64]  # positions, ascending
    centres: NDArray[np.int64]  # those of them that all others are alike to, one or more


def near_duplicates(
    sketches: Tensor,
    likeness: float,
    confirm: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> list[Group]:
    """Groups of samples that are alike to one and the same of them, see `stars`.

    Arguments and errors are those of `alike_pairs`.
    """
    pairs = alike_pairs(sketches, likeness, confirm)
    group = stars(*pairs, len(sketches)).numpy()
    first, second = (ends.numpy() for ends in pairs)
    is_within = group[first] == group[second]
    ends = np.concatenate([first[is_within], second[is_within]])
    is_centre = np.bincount(ends, minlength=len(group)) == np.bincount(group)[group] - 1
    order = np.argsort(group, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(group[order])) + 1)
    return [Group(part, part[is_centre[part]]) for part in parts if len(part) > 1]
