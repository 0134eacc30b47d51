"""Groups of near-duplicates for a person to look at."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from data_agent.duplicates import alike_pairs


def near_duplicates(
    sketches: Tensor,
    likeness: float,
    confirm: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> list[NDArray[np.int64]]:
    """Groups of samples, each of which is like another one of its group.

    Arguments and errors are those of `alike_pairs`.

    Returns:
        Positions, ascending, two or more in each group.
    """
    first, second = alike_pairs(sketches, likeness, confirm)
    ones, size = np.ones(len(first), np.bool_), len(sketches)
    pairs = coo_matrix((ones, (first.numpy(), second.numpy())), shape=(size, size))
    _, group = connected_components(pairs, directed=False)
    order = np.argsort(group, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(group[order])) + 1)
    return [part for part in parts if len(part) > 1]
