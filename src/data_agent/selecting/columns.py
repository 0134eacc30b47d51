"""Typed columns that a selector remembers of each sample besides what its method records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from data_agent.selecting.feedback import Feedback

Rows = Mapping[str, Tensor]
VALUES = "values"  # the column of what `Method.record` returned


class Table(Protocol):
    """A table with its own rows of feedback, recorded and merged as those of the method."""

    @property
    def name(self) -> str:
        """What saved states call it."""
        ...

    @property
    def reads(self) -> tuple[str, ...]:
        """What of a `Feedback` its `record` reads, row by row, as `Method.reads`."""
        ...

    @property
    def dtypes(self) -> Mapping[str, torch.dtype]:
        """Its columns and their dtypes."""
        ...

    def record(self, feedback: Feedback) -> Mapping[str, Tensor]:
        """What to keep of rows: a `[B]` tensor for each column, on the feedback's device."""
        ...

    def check(self, index: Tensor, rows: Mapping[str, Tensor]) -> None:
        """Warn of what cannot be meant in rows that will not be merged: no other epoch follows."""
        ...

    def merge(self, index: Tensor, rows: Mapping[str, Tensor]) -> None:
        """Take in the last epoch's rows of all ranks; `index` int64 `[M]`, distinct."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """The table's tensors."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned; a CheckpointError if it does not fit."""
        ...


def as_rows(values: Tensor | None, feedback: Feedback, tables: tuple[Table, ...]) -> Rows:
    """What to stage of a batch: the method's float `[B, width]` and every table's columns."""
    if values is None:
        values = feedback.losses.new_empty(len(feedback), 0)
    rows = {VALUES: values}
    for table in tables:
        rows.update({f"{table.name}.{key}": row for key, row in table.record(feedback).items()})
    return rows


def rows_of(table: Table, rows: Rows) -> Rows:
    """A table's columns among all that were staged."""
    return {key: rows[f"{table.name}.{key}"] for key in table.dtypes}
