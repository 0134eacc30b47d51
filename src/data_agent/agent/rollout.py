"""What the policy did since its last update: a bounded, uniform sub-sample of the rows."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from data_agent._distributed import gather_rows
from data_agent._errors import CheckpointError


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
    """Keeps the `max_rows` rows with the smallest keys of all that were added since `take`."""

    def __init__(self, max_rows: int) -> None:
        self._max_rows = max_rows
        self._rows: RolloutRows | None = None

    def add(self, rows: RolloutRows) -> None:
        """Add a batch's rows; which ones stay is decided by their keys alone."""
        if self._rows is not None:
            pairs = zip(self._rows.columns(), rows.columns(), strict=True)
            rows = RolloutRows(*(torch.cat(pair) for pair in pairs))
        self._rows = smallest_keys(rows, self._max_rows)

    def take(self) -> RolloutRows | None:
        """Hand over the rows of all ranks, in one order on every rank, and start afresh.

        A collective call on several ranks. None if there are fewer than two rows to learn from.
        """
        if self._rows is None:
            return None
        rows = RolloutRows(*gather_rows(*self._rows.columns()))
        self._rows = None
        rows = smallest_keys(rows, self._max_rows)
        rows = rows.at(rows.key.isfinite())
        return rows if len(rows) > 1 else None

    def state_dict(self) -> dict[str, Any] | None:
        """The rows, on the host."""
        if self._rows is None:
            return None
        return {f.name: getattr(self._rows, f.name).cpu().clone() for f in fields(RolloutRows)}

    def load_state_dict(self, state: dict[str, Any] | None, *, device: torch.device) -> None:
        """Take over what `state_dict` returned."""
        if state is None:
            self._rows = None
            return
        rows = RolloutRows(*(state[field.name].to(device) for field in fields(RolloutRows)))
        if any(len(column) != len(rows) for column in rows.columns()):
            raise CheckpointError("the rollout's columns differ in length.")
        self._rows = rows

    def to(self, device: torch.device) -> None:
        """Move to `device`."""
        if self._rows is not None:
            self._rows = RolloutRows(*(column.to(device) for column in self._rows.columns()))


def smallest_keys(rows: RolloutRows, count: int) -> RolloutRows:
    """The `count` rows with the smallest keys, in the order of their keys."""
    if len(rows) <= count:
        return rows
    return rows.at(torch.topk(rows.key, count, largest=False, sorted=True).indices)
