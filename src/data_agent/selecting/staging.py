"""The running epoch's feedback, kept apart until the next epoch begins.

Rows arrive on the device where the model runs and are moved to the host in one go, when somebody
needs them there: nothing waits for the host in between.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from data_agent.errors import CheckpointError
from data_agent.runtime import distributed
from data_agent.selecting.feedback import check_range
from data_agent.selecting.nonfinite import OnNonfinite, nonfinite_error


class Staging:
    """Rows (sample, values) of the running epoch.

    Args:
        on_nonfinite: what `check` does about rows that were not valid: "raise" or "skip".
    """

    def __init__(self, on_nonfinite: OnNonfinite) -> None:
        self._on_nonfinite = on_nonfinite
        self._pending: list[tuple[Tensor, Tensor, Tensor]] = []
        self._settled: list[tuple[Tensor, Tensor]] = []
        self._refused: list[Tensor] = []
        self.num_skipped = 0

    def append(self, index: Tensor, values: Tensor, valid: Tensor) -> None:
        """Add int64 `[B]` on the host, float `[B, width]` and bool `[B]` on any device."""
        self._pending.append((index, values, valid))

    def rows(self) -> tuple[Tensor, Tensor]:
        """All valid rows since the epoch began: int64 `[M]`, float32 `[M, width]`, on the host."""
        self._settle()
        if not self._settled:
            return torch.empty(0, dtype=torch.int64), torch.empty(0, 0, dtype=torch.float32)
        if len(self._settled) > 1:
            index, values = zip(*self._settled, strict=True)
            self._settled = [(torch.cat(index), torch.cat(values))]
        return self._settled[0]

    def check(self) -> None:
        """Report rows that were not valid, on every rank; a collective call on several ranks.

        Raises:
            InputError: there are some and `on_nonfinite` is "raise"; names the samples, once.
        """
        self._settle()
        here = torch.cat(self._refused) if self._refused else torch.empty(0, dtype=torch.int64)
        self._refused.clear()
        (index,) = distributed.gather_rows(here)
        if len(index) and self._on_nonfinite == "raise":
            raise nonfinite_error(index)

    def clear(self) -> None:
        """Forget all rows."""
        self._pending.clear()
        self._settled.clear()

    def state_dict(self) -> dict[str, Any]:
        """The rows of all ranks, in rank order; a collective call on several ranks."""
        index, values = self.rows()
        (sizes,) = distributed.gather_rows(torch.tensor([len(index)]))
        index, values = distributed.gather_rows(index, values)
        return {
            "staged_index": index.clone(),
            "staged_values": values.clone(),
            "staged_sizes": sizes.tolist(),
            "num_skipped": distributed.total(self.num_skipped),
        }

    def load_state_dict(self, state: Mapping[str, Any], num_samples: int) -> None:
        """Take over this rank's part of what `state_dict` returned.

        Raises:
            CheckpointError: index and values do not belong together.
            InputError: an index outside of the dataset.
        """
        index, values, sizes = (state[f"staged_{name}"] for name in ("index", "values", "sizes"))
        if index.dtype != torch.int64 or index.ndim != 1:
            raise CheckpointError("the staged samples are not int64 [M].")
        if values.dtype != torch.float32 or values.ndim != 2 or len(values) != len(index):
            raise CheckpointError(f"the staged values are not float32 [{len(index)}, width].")
        if not values.isfinite().all():
            raise CheckpointError("the staged values are not all finite.")
        check_range(index, num_samples)
        num_skipped = int(state["num_skipped"])
        own_index = distributed.rows_to_resume(index, sizes)
        own_values = distributed.rows_to_resume(values, sizes)
        self.clear()
        self._refused.clear()
        if len(own_index) or own_values.shape[1]:  # how wide no rows are is state as well
            self._settled = [(own_index, own_values)]
        self.num_skipped = num_skipped if distributed.rank() == 0 else 0

    def _settle(self) -> None:
        """Move what is pending to the host in one transfer."""
        if not self._pending:
            return
        indices, rows, flags = zip(*self._pending, strict=True)
        index, valid = torch.cat(indices), torch.cat(flags).cpu()
        values = torch.cat(rows).to("cpu", torch.float32)
        self._pending.clear()
        if not valid.all():
            self._refused.append(index[~valid])
            self.num_skipped += int((~valid).sum())
            index, values = index[valid], values[valid]
        self._settled.append((index, values))


def keep_last(index: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """One row a sample: of repeated samples (padding of a framework) the last row stays."""
    distinct, inverse = torch.unique(index, return_inverse=True)
    if len(distinct) == len(index):
        return index, values
    last = torch.zeros(len(distinct), dtype=torch.int64)
    last.scatter_reduce_(0, inverse, torch.arange(len(index)), reduce="amax")
    return distinct, values[last]
