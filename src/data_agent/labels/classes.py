"""Labels as classes numbered from 0, with -1 for samples whose label is not known."""

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
            self.number, self._count = label, int(label.max()) + 1
        else:
            names = torch.from_numpy(distinct(label.numpy()))
            names = names[names >= 0]
            self.number = torch.searchsorted(names, label, out_int32=True)
            self.number[label < 0] = -1
            self._count = len(names)

    def sizes(self, *among: Tensor) -> list[Tensor]:
        """int64 `[1 + classes]` for each bool `[N]`: how many of them have none, and which."""
        kinds = 1 << len(among)
        counts = torch.zeros((1 + self._count) * kinds, dtype=torch.int64)
        one = torch.ones(BLOCK, dtype=torch.int64)
        blocks = zip(*(column.split(BLOCK) for column in (self.number, *among)), strict=True)
        for number, *masks in blocks:
            code = (number.int() + 1).mul_(kinds)  # a copy: int() is none where it is int32
            for bit, mask in enumerate(masks):
                code += mask.view(torch.uint8) << bit
            counts.scatter_add_(0, code.long(), one[: len(code)])
        kind, of_each = torch.arange(kinds), counts.view(-1, kinds)
        return [of_each[:, (kind >> bit) & 1 == 1].sum(1) for bit in range(len(among))]

    def with_any_of(self, marked: Tensor) -> Tensor:
        """Bool `[N]`: the samples of all classes that have one which is marked, bool `[N]`."""
        has_one = self.sizes(marked)[0] > 0
        members = torch.from_numpy(np.empty(len(marked), dtype=bool))
        for number, out in zip(self.number.split(BLOCK), members.split(BLOCK), strict=True):
            torch.index_select(has_one, 0, number.int() + 1, out=out)
        return members


def distinct(values: NDArray[np.int32]) -> NDArray[np.int32]:
    """The different values, ascending; sorts no more at a time than there are different ones."""
    found, start = values[:0], 0
    while start < len(values):
        block = values[start : start + max(BLOCK, len(found))]
        start += len(block)
        if len(found):
            block = block[found.take(np.searchsorted(found, block), mode="clip") != block]
        found = np.union1d(found, block)
    return found
