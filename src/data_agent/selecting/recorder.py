"""From a batch to rows that are remembered: copied, acted on with many others, staged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from data_agent.errors import CheckpointError
from data_agent.runtime import distributed
from data_agent.runtime.shards import Shard
from data_agent.selecting.block import (
    EVERYTHING,
    Block,
    Columns,
    batches_to_resume,
    columns_of,
    state_of_all,
)
from data_agent.selecting.columns import VALUES, Rows, Table, as_rows, rows_of
from data_agent.selecting.feedback import Feedback, plain_arithmetic
from data_agent.selecting.first_batches import FirstBatches
from data_agent.selecting.label_sketch import LabelSketch
from data_agent.selecting.method import Method
from data_agent.selecting.nonfinite import OnNonfinite, nonfinite_error, without_nonfinite
from data_agent.selecting.staging import Staging, keep_last


class Recorder:
    """Lets a method record batches, as many at a time as it may.

    Args:
        method: what it `reads`, `examine` and `record` are used.
        tables: further ones that record the same rows.
        on_nonfinite: what NaN or infinite values do: "raise" or "skip" (and count).
        num_samples: N.
    """

    def __init__(
        self,
        method: Method,
        tables: tuple[Table, ...],
        on_nonfinite: OnNonfinite,
        num_samples: int,
    ) -> None:
        dtypes = {f"{t.name}.{key}": dtype for t in tables for key, dtype in t.dtypes.items()}
        self.staging = Staging(on_nonfinite, dtypes)
        self._method = method
        self._tables = tables
        self._on_nonfinite: OnNonfinite = on_nonfinite
        self._block: Block | None = None
        self._sketch = LabelSketch(num_samples)
        self._first_batches = FirstBatches(needs_features=method.needs_features)
        self._num_samples = num_samples
        own = () if type(method).record is Method.record else method.reads
        of_tables = [name for table in tables for name in table.reads]
        self._reads = None if own is None else tuple(dict.fromkeys((*own, *of_tables)))

    def take_in(self, feedback: Feedback) -> None:
        """Copy what is read of a batch; rows that are not finite stay out.

        Raises:
            InputError: the method refuses the batch, or its values were looked at (on the host, and
                where the method asks for it), are not finite, and `on_nonfinite` is "raise"; or one
                of the first batches cannot be what was meant, see `FirstBatches`.
        """
        rows, valid = feedback, None
        is_here = feedback.losses.device.type == "cpu"
        if is_here or self._reads is None or self._method.looks_first:
            rows, valid = without_nonfinite(feedback)
            if valid is not None and self._on_nonfinite == "raise":
                raise nonfinite_error(feedback.index[~valid])
        if rows is not None:
            self._first_batches.look(rows)
            reads = EVERYTHING if self._reads is None else self._reads
            self._keep(rows.index, columns_of(self._method.examine(rows), reads))
            if rows.labels is not None:
                self._sketch.note(rows.index, rows.labels)
        if valid is not None:
            self.staging.refuse(feedback.index[~valid])

    def act(self) -> None:
        """Let the method record the rows of all batches since it last did."""
        self._sketch.look()
        if self._block is None:
            return
        feedback, self._block = self._block.feedback(), None
        with plain_arithmetic(feedback.losses.device):
            rows, valid = without_nonfinite(feedback)
            if rows is not None:
                recorded = as_rows(self._method.record(rows), rows, self._tables)
                self.staging.append(rows.index, recorded)
        if valid is not None:
            self.staging.refuse(feedback.index[~valid])

    def merge(self, shard: Shard) -> None:
        """Take the epoch's rows of all ranks into the method and all tables; a collective call.

        These know the samples by their places in `shard`, of which all rows are.
        """
        index, rows = self.staging.rows_of_all()
        index, rows = keep_last(shard.places(index), rows)
        if rows[VALUES].shape[1:].numel():
            self._method.merge(index, rows[VALUES])
        for table in self._tables:
            table.merge(index, rows_of(table, rows))

    def check(self) -> None:
        """Let tables look at this rank's rows of the last epoch, which is merged into none."""
        if not self._tables:
            return
        index, rows = keep_last(*self.staging.rows())
        for table in self._tables:
            table.check(index, rows_of(table, rows))

    def rows_so_far(self, table: Table) -> tuple[Tensor, Rows]:
        """A table's rows of the running epoch, of all ranks and one a sample; a collective call.

        Those that nobody acted on yet are among them, and stay as they are.
        """
        index, staged = self.staging.rows()
        rows = rows_of(table, staged)
        if self._block is not None:
            with plain_arithmetic(self._block.device):
                feedback, _ = without_nonfinite(self._block.feedback())
                if feedback is not None:
                    index = torch.cat([index, feedback.index])
                    more = table.record(feedback)
                    rows = {name: torch.cat([rows[name], more[name].cpu()]) for name in rows}
        index, *columns = distributed.gather_rows(index, *rows.values())
        return keep_last(index, dict(zip(rows, columns, strict=True)))

    def state_dict(self) -> dict[str, Any]:
        """What is staged, and the block as it stands, of all ranks; a collective call."""
        staged, sketch = self.staging.state_dict(), self._sketch.state_dict()
        return {**staged, **sketch, "block": state_of_all(self._block)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over this rank's part of what `state_dict` returned; the method's own comes first.

        Raises:
            CheckpointError: columns that do not belong together, or rows without an epoch.
            InputError: a sample outside of the dataset.
        """
        self.staging.load_state_dict(state, self._num_samples)
        self._sketch.load_state_dict(state)
        self._block = None
        parts, precision = state["block"], self._method.precision
        for index, batch in batches_to_resume(parts, precision, self._num_samples):
            if state["running"] is None:
                raise CheckpointError("a block of rows is of no epoch.")
            self._keep(index, batch)

    def _keep(self, index: Tensor, batch: Columns) -> None:
        if self._block is not None and not self._block.fits(batch):
            self.act()
        if self._block is None:
            self._block = Block(batch, self._method.precision)
        self._block.add(index, batch)
        if self._reads is None:
            self.act()
