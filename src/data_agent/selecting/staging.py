"""The running epoch's feedback, kept apart until the next epoch begins.

Rows arrive on the device where the model runs and are moved to the host in one go, when somebody
needs them there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from data_agent.errors import CheckpointError
from data_agent.runtime import distributed
from data_agent.runtime.masks import mask_of, size_of
from data_agent.selecting.columns import VALUES, Rows
from data_agent.selecting.feedback import check_range
from data_agent.selecting.nonfinite import OnNonfinite, nonfinite_error


class Staging:
    """Rows (sample, columns) of the running epoch.

    Args:
        on_nonfinite: what `check` does about samples that were refused: "raise" or "skip".
        dtypes: of the columns `[M]` by name, besides the method's values, float32 `[M, width]`.
    """

    def __init__(
        self, on_nonfinite: OnNonfinite, dtypes: Mapping[str, torch.dtype] | None = None
    ) -> None:
        self._on_nonfinite = on_nonfinite
        self._dtypes = {VALUES: torch.float32, **(dtypes or {})}
        self._pending: list[tuple[Tensor, Rows]] = []
        self._settled: list[tuple[Tensor, Rows]] = []
        self._refused: list[Tensor] = []
        self.num_skipped = 0

    def append(self, index: Tensor, rows: Rows) -> None:
        """Add samples, int64 `[B]` on the host, and on any device columns `[B, ...]`."""
        self._pending.append((index, rows))

    def refuse(self, index: Tensor) -> None:
        """Count samples, int64 `[B]` on the host, whose values are not finite, for `check`."""
        self.num_skipped += len(index)
        self._refused.append(index)

    def rows(self) -> tuple[Tensor, Rows]:
        """All rows since the epoch began, on the host: int64 `[M]`, columns `[M, ...]`."""
        self._settle()
        if not self._settled:
            return torch.empty(0, dtype=torch.int64), self._no_rows()
        if len(self._settled) > 1:
            index, rows = zip(*self._settled, strict=True)
            self._settled = [(torch.cat(index), _joined(rows))]
        return self._settled[0]

    def rows_of_all(self) -> tuple[Tensor, Rows]:
        """The rows of all ranks, in rank order; a collective call on several ranks."""
        index, rows = self.rows()
        index, *columns = distributed.gather_rows(index, *rows.values())
        return index, dict(zip(rows, columns, strict=True))

    def check(self) -> None:
        """Report samples that were refused, on every rank; a collective call on several ranks.

        Raises:
            InputError: there are some and `on_nonfinite` is "raise"; names the samples, once.
        """
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
        (sizes,) = distributed.gather_rows(torch.tensor([len(self.rows()[0])]))
        index, rows = self.rows_of_all()
        return {
            "staged_index": index.clone(),
            "staged_rows": {name: column.clone() for name, column in rows.items()},
            "staged_sizes": sizes.tolist(),
            "num_skipped": distributed.total(self.num_skipped),
        }

    def load_state_dict(self, state: Mapping[str, Any], num_samples: int) -> None:
        """Take over this rank's part of what `state_dict` returned.

        Raises:
            CheckpointError: index and columns do not belong together.
            InputError: an index outside of the dataset.
        """
        index, rows, sizes = (state[f"staged_{name}"] for name in ("index", "rows", "sizes"))
        if index.dtype != torch.int64 or index.ndim != 1:
            raise CheckpointError("the staged samples are not int64 [M].")
        if set(rows) != set(self._dtypes):
            raise CheckpointError(f"the staged columns are {sorted(rows)}.")
        for name, dtype in self._dtypes.items():
            _check_column(name, rows[name], dtype, len(index))
        check_range(index, num_samples)
        num_skipped = int(state["num_skipped"])
        own_index = distributed.rows_to_resume(index, sizes)
        own_rows = {name: distributed.rows_to_resume(rows[name], sizes) for name in self._dtypes}
        self.clear()
        self._refused.clear()
        if len(own_index) or own_rows[VALUES].shape[1]:  # how wide no rows are is state as well
            self._settled = [(own_index, own_rows)]
        self.num_skipped = num_skipped if distributed.rank() == 0 else 0

    def _no_rows(self) -> Rows:
        return {
            name: torch.empty((0, 0) if name == VALUES else (0,), dtype=dtype)
            for name, dtype in self._dtypes.items()
        }

    def _settle(self) -> None:
        """Move what is pending to the host, a transfer for each column."""
        if not self._pending:
            return
        indices, batches = zip(*self._pending, strict=True)
        joined = _joined(batches)
        rows = {name: joined[name].to("cpu", dtype) for name, dtype in self._dtypes.items()}
        self._pending.clear()
        self._settled.append((torch.cat(indices), rows))


def keep_last(index: Tensor, rows: Rows) -> tuple[Tensor, Rows]:
    """One row a sample: of repeated samples (padding of a framework) the last row stays."""
    if not len(index) or size_of(mask_of(index, int(index.max()) + 1)) == len(index):
        return index, rows
    distinct, inverse = torch.unique(index, return_inverse=True)
    last = torch.zeros(len(distinct), dtype=torch.int64)
    last.scatter_reduce_(0, inverse, torch.arange(len(index)), reduce="amax")
    return distinct, {name: column[last] for name, column in rows.items()}


def _joined(batches: tuple[Rows, ...]) -> Rows:
    return {name: torch.cat([rows[name] for rows in batches]) for name in batches[0]}


def _check_column(name: str, column: Tensor, dtype: torch.dtype, size: int) -> None:
    ndim = 2 if name == VALUES else 1
    if column.dtype != dtype or column.ndim != ndim or len(column) != size:
        raise CheckpointError(f"the staged {name} are not {dtype} of {size} samples.")
    if column.is_floating_point() and not column.isfinite().all():
        raise CheckpointError(f"the staged {name} are not all finite.")
