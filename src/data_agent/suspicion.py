"""How suspicious a label is, from what its sample showed over training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["suspicion"]

SUSPICIOUS: Mapping[str, tuple[int, float]] = {  # columns of `table()`, their signs and weights
    "mean_loss": (1, 2.0),
    "margin": (-1, 2.0),
    "loss": (1, 1.0),
}


def suspicion(columns: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
    """How suspicious each label is, in [0, 1]; 0 where nothing is known of a sample.

    A weighted mean of ranks: of the mean loss and of the mean margin 2/5 each, of the last loss
    1/5; a column that is not there has no weight. No column is best everywhere: where labels are
    wrong at random the mean loss is, where people err the last loss, as such labels are learned
    late, and where they are memorised at last the means are (docs/audit.md).

    Args:
        columns: float `[N]` each, those of "mean_loss", "margin" and "loss" that are known; nan
            where a sample did not show it. At least one.
    """
    known = [name for name in SUSPICIOUS if name in columns]
    signs, weights = zip(*(SUSPICIOUS[name] for name in known), strict=True)
    values = [sign * columns[name] for sign, name in zip(signs, known, strict=True)]
    return np.average([ranks(v) for v in values], axis=0, weights=weights)


def ranks(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """The share of values below each one, equal ones counted half: `[N]` in [0, 1], 0 for nan."""
    known = ~np.isnan(values)
    ordered = np.sort(values[known])
    found = np.zeros(len(values))
    below, up_to = (np.searchsorted(ordered, values[known], side) for side in ("left", "right"))
    found[known] = (below + up_to) / (2 * max(1, len(ordered)))
    return found
