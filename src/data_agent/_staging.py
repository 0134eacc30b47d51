"""The running epoch's feedback, kept apart until the next epoch begins.

Rows arrive on the device where the model runs and are moved to the host in one go, when somebody
needs them there (`settle`): nothing waits for the host in between.
"""

from __future__ import annotations

import torch
from torch import Tensor

from data_agent._errors import CheckpointError
from data_agent._nonfinite import OnNonfinite, nonfinite_error


def empty_rows() -> tuple[Tensor, Tensor]:
    """No rows: (int64 `[0]`, float32 `[0, 0]`)."""
    return torch.empty(0, dtype=torch.int64), torch.empty(0, 0)


class Staging:
    """Rows (sample, values) of the running epoch.

    Args:
        on_nonfinite: "raise" reports rows that were marked as not valid; "skip" drops and counts.
    """

    def __init__(self, on_nonfinite: OnNonfinite) -> None:
        self._on_nonfinite = on_nonfinite
        self._pending: list[tuple[Tensor, Tensor, Tensor]] = []
        self._index, self._values = empty_rows()
        self.num_skipped = 0

    def append(self, index: Tensor, values: Tensor, valid: Tensor) -> None:
        """Add int64 `[B]` on the host, float `[B, width]` and bool `[B]` on any device."""
        self._pending.append((index, values, valid))

    def settle(self) -> tuple[Tensor, Tensor]:
        """Move what is pending to the host and return those rows (index `[M]`, values `[M, W]`).

        Raises:
            InputError: a row was not valid and `on_nonfinite` is "raise"; names the samples.
        """
        if not self._pending:
            return empty_rows()
        index = torch.cat([row[0] for row in self._pending])
        values = torch.cat([row[1] for row in self._pending]).to("cpu", torch.float32)
        valid = torch.cat([row[2] for row in self._pending]).cpu()
        self._pending.clear()
        if not valid.all():
            self._refuse_or_count(index[~valid])
            index, values = index[valid], values[valid]
        if len(self._index):
            self._index = torch.cat([self._index, index])
            self._values = torch.cat([self._values, values])
        else:
            self._index, self._values = index, values
        return index, values

    def rows(self) -> tuple[Tensor, Tensor]:
        """All rows since the epoch began, on the host, in the order of arrival."""
        self.settle()
        return self._index, self._values

    def clear(self) -> None:
        """Forget all rows."""
        self._pending.clear()
        self._index, self._values = empty_rows()

    def load(self, index: Tensor, values: Tensor) -> None:
        """Take over rows that `rows` returned.

        Raises:
            CheckpointError: index and values do not belong together.
        """
        if index.dtype != torch.int64 or index.ndim != 1 or values.ndim != 2:
            raise CheckpointError("the staged feedback is not int64 [M] and float [M, width].")
        if len(index) != len(values):
            raise CheckpointError(f"{len(index)} staged samples came with {len(values)} rows.")
        self.clear()
        self._index, self._values = index.clone(), values.clone()

    def _refuse_or_count(self, index: Tensor) -> None:
        self.num_skipped += len(index)
        if self._on_nonfinite == "raise":
            raise nonfinite_error(index)


def keep_last(index: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """One row a sample: of repeated samples (padding of a framework) the last row stays."""
    distinct, inverse = torch.unique(index, return_inverse=True)
    if len(distinct) == len(index):
        return index, values
    last = torch.zeros(len(distinct), dtype=torch.int64)
    last.scatter_reduce_(0, inverse, torch.arange(len(index)), reduce="amax")
    return distinct, values[last]
