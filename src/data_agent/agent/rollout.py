"""What the policy did since its last update: a bounded, uniform sub-sample of the rows."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from data_agent.runtime.distributed import gather_rows, rows_to_resume
from data_agent.runtime.state import require_tensor


@dataclass(frozen=True, slots=True, eq=False)
class RolloutRows:
    """Rows of a rollout, `[R, ...]` each.

    Args:
        key: the row's random key; the smallest ones stay. Infinite for rows that do not count.
        step: int64, the batch it came from.
        state: `[R, D]`, what the policy saw.
        action: in (0, 1).
        log_prob: of the action under the policy that took it.
        utility: in [0, 1].
    """

    key: Tensor
    step: Tensor
    state: Tensor
    action: Tensor
    log_prob: Tensor
    utility: Tensor

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.key)

    def columns(self) -> tuple[Tensor, ...]:
        """The tensors, in the order of the fields."""
        return tuple(getattr(self, field.name) for field in fields(self))

    def at(self, rows: Tensor) -> RolloutRows:
        """Some of the rows."""
        return RolloutRows(*(column[rows] for column in self.columns()))


class Rollout:
    """Keeps the `max_rows` rows with the smallest keys of all that were added since `take`.

    Args:
        max_rows: the bound.
        width: D, width of the states.
        dtype: of states, actions and utilities.
        device: where the rows come from.
    """

    def __init__(
        self, max_rows: int, width: int, *, dtype: torch.dtype, device: torch.device
    ) -> None:
        self._max_rows = max_rows
        none = torch.empty(0, dtype=dtype, device=device)
        self._rows = RolloutRows(
            key=none.float(),
            step=none.long(),
            state=none.new_empty(0, width),
            action=none,
            log_prob=none,
            utility=none,
        )

    def add(self, rows: RolloutRows) -> None:
        """Add a batch's rows; which ones stay is decided by their keys alone."""
        if len(self._rows):
            pairs = zip(self._rows.columns(), rows.columns(), strict=True)
            rows = RolloutRows(*(torch.cat(pair) for pair in pairs))
        self._rows = smallest_keys(rows, self._max_rows)

    def take(self) -> RolloutRows | None:
        """Hand over the rows of all ranks, in one order on every rank, and start afresh.

        A collective call on several ranks. None if there are fewer than two rows to learn from.
        """
        rows = RolloutRows(*gather_rows(*self._rows.columns()))
        self._rows = RolloutRows(*(column[:0] for column in self._rows.columns()))
        rows = smallest_keys(rows, self._max_rows)
        rows = rows.at(rows.key.isfinite())
        return rows if len(rows) > 1 else None

    def state_dict(self) -> dict[str, Any]:
        """The rows of all ranks, in rank order, on the host. A collective call."""
        (sizes,) = gather_rows(torch.tensor([len(self._rows)]))
        columns = gather_rows(*self._rows.columns())
        names = [field.name for field in fields(RolloutRows)]
        rows = {name: column.cpu().clone() for name, column in zip(names, columns, strict=True)}
        return {"sizes": sizes.tolist(), "rows": rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over this rank's part of what `state_dict` returned.

        Raises:
            CheckpointError: a column of another length, width or dtype.
        """
        sizes, columns = state["sizes"], state["rows"]
        num_rows = sum(sizes)
        rows = [
            require_tensor(columns, f.name, shape=(num_rows, *own.shape[1:]), dtype=own.dtype)
            for f, own in zip(fields(RolloutRows), self._rows.columns(), strict=True)
        ]
        device = self._rows.key.device
        self._rows = RolloutRows(*(rows_to_resume(column, sizes).to(device) for column in rows))

    def to(self, device: torch.device) -> None:
        """Move to `device`."""
        self._rows = RolloutRows(*(column.to(device) for column in self._rows.columns()))


def smallest_keys(rows: RolloutRows, count: int) -> RolloutRows:
    """The `count` rows with the smallest keys, in the order of their keys."""
    if len(rows) <= count:
        return rows
    return rows.at(torch.topk(rows.key, count, largest=False, sorted=True).indices)
