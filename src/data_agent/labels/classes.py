"""Labels as classes numbered from 1, with 0 for samples whose label is not known."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_agent.runtime.topk import BLOCK


class Classes:
    """The classes of all samples.

    Args:
        label: `[N]`, -1 where it is not known. int16 ones are numbered as they are, so that classes
            without samples have numbers too; of int32 ones those that occur are.
    """

    def __init__(self, label: Tensor) -> None:
        if label.dtype == torch.int16:
            self.number = label + 1
            self._count = int(label.max()) + 2
        else:
            names = distinct(label.numpy())
            names = names if names[0] == -1 else np.append(np.int32(-1), names)
            number = np.empty(len(label), dtype=np.int32)
            for start in range(0, len(label), BLOCK):
                rows = slice(start, start + BLOCK)
                number[rows] = np.searchsorted(names, label.numpy()[rows])
            self.number = torch.from_numpy(number)
            self._count = len(names)

    def sizes(self, among: Tensor | None = None) -> Tensor:
        """int64 `[1 + classes]`: how many samples, of those `among` bool `[N]`, have which."""
        sizes = np.zeros(self._count, dtype=np.int64)
        number = self.number.numpy()
        for start in range(0, len(number), BLOCK):
            rows = slice(start, start + BLOCK)
            if among is None:
                sizes += np.bincount(number[rows], minlength=self._count)
            else:
                sizes += np.bincount(number[rows][among.numpy()[rows]], minlength=self._count)
        return torch.from_numpy(sizes)


def distinct(values: NDArray[np.int32]) -> NDArray[np.int32]:
    """The different values, ascending; sorts no more at a time than there are different ones."""
    found = values[:0]
    start = 0
    while start < len(values):
        block = values[start : start + max(BLOCK, len(found))]
        start += len(block)
        if len(found):
            at = np.searchsorted(found, block)
            block = block[found.take(at, mode="clip") != block]
        found = np.union1d(found, block)
    return found
