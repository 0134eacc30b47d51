"""Rows of several batches, copied where the model runs until the method takes all of them at once.

Between two updates of a policy nothing changes that it would say of a sample, and what other
methods remember of a row depends on that row alone. So a step only copies; what is done with the
rows is done for all of a block together.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from data_agent.errors import CheckpointError
from data_agent.runtime import distributed
from data_agent.selecting.feedback import Feedback, check_range

MAX_BATCHES = 64
MAX_BYTES = 32 * 2**20  # a block takes no more, but for a single batch that is larger
FIELDS = ("losses", "logits", "features", "labels", "uncertainty")
EVERYTHING = (*FIELDS[1:], "signals")

Columns = Mapping[str, Tensor]
"""Parts of a batch by name: fields of `Feedback`, and signals as "signals.name"."""


def columns_of(feedback: Feedback, reads: tuple[str, ...]) -> dict[str, Tensor]:
    """The losses and what of `reads` came; `[B, ...]` each."""
    columns = {"losses": feedback.losses}
    for name in reads:
        if name == "signals":
            columns.update({f"signals.{key}": v for key, v in feedback.signals.items()})
        elif (values := getattr(feedback, name)) is not None:
            columns[name] = values
    return columns


class Block:
    """Rows of batches that bring the same columns.

    Args:
        first: the first batch, for widths and devices.
        precision: of floating-point columns.
        room: for how many batches of its size memory is taken; more make it grow.
    """

    def __init__(self, first: Columns, precision: torch.dtype, room: int = MAX_BATCHES) -> None:
        self._index: list[Tensor] = []
        self._num_rows = 0
        dtypes = {n: precision if v.is_floating_point() else torch.int64 for n, v in first.items()}
        shapes = {name: values.shape[1:] for name, values in first.items()}
        self._row_bytes = sum(shapes[n].numel() * d.itemsize for n, d in dtypes.items())
        self._size = size = len(first["losses"])
        self._capacity = max(size, min(room * size, MAX_BYTES // self._row_bytes))
        self._columns = {
            name: values.new_empty((self._capacity, *shapes[name]), dtype=dtypes[name])
            for name, values in first.items()
        }
        self._places = [column.split(size) for column in self._columns.values()]

    @property
    def device(self) -> torch.device:
        """Where the losses are."""
        return self._columns["losses"].device

    def fits(self, batch: Columns) -> bool:
        """Whether a batch brings the same columns, and there is room for it.

        A function of the rows alone, so that a block which was saved and restored ends where the
        other one does.
        """
        if batch.keys() != self._columns.keys() or len(self._index) >= MAX_BATCHES:
            return False
        if (self._num_rows + batch["losses"].shape[0]) * self._row_bytes > MAX_BYTES:
            return False
        return all([self._columns[name].shape[1:] == v.shape[1:] for name, v in batch.items()])

    def add(self, index: Tensor, batch: Columns) -> None:
        """Copy a batch: its samples, int64 `[B]` on the host, and columns that fit."""
        size, start = index.shape[0], self._num_rows  # len(tensor) makes four calls
        end = start + size
        if end > self._capacity or batch["losses"].device != self._columns["losses"].device:
            self._move(max(self._capacity, end), batch)
        number, over = divmod(start, self._size)
        if over or size != self._size:
            places = [self._columns[name][start:end] for name in batch]
        else:
            places = [parts[number] for parts in self._places]
        torch._foreach_copy_(places, list(batch.values()), non_blocking=True)
        self._index.append(index)
        self._num_rows = end

    def feedback(self) -> Feedback:
        """All rows as one batch, on the device of the losses."""
        columns = {name: column[: self._num_rows] for name, column in self._columns.items()}
        device = columns["losses"].device
        columns = {name: v.to(device, non_blocking=True) for name, v in columns.items()}
        signals = {n[8:]: columns.pop(n) for n in list(columns) if n.startswith("signals.")}
        sizes = tuple([index.shape[0] for index in self._index])
        return Feedback(torch.cat(self._index), signals=signals, sizes=sizes, **columns)

    def state_dict(self) -> dict[str, Any]:
        """Samples, columns and the sizes of the batches, on the host."""
        columns = {n: c[: self._num_rows].cpu().clone() for n, c in self._columns.items()}
        sizes = [len(index) for index in self._index]
        return {"index": torch.cat(self._index), "sizes": sizes, "columns": columns}

    def _move(self, capacity: int, batch: Columns) -> None:
        """Make room for more rows, where the batch is: after a restore that may be elsewhere."""
        columns, self._capacity = self._columns, capacity
        self._columns = {
            name: batch[name].new_empty((capacity, *column.shape[1:]), dtype=column.dtype)
            for name, column in columns.items()
        }
        for name, column in columns.items():
            self._columns[name][: self._num_rows] = column[: self._num_rows]
        self._places = [column.split(self._size) for column in self._columns.values()]


def state_of_all(block: Block | None) -> list[dict[str, Any]]:
    """The rows of all ranks, a part for each; a collective call on several ranks."""
    own = {} if block is None else block.state_dict()
    if distributed.world_size() == 1:
        return [own]
    file = io.BytesIO()
    torch.save(own, file)
    data = torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8)
    sizes, everything = distributed.gather_rows(torch.tensor([len(data)]), data)
    parts = everything.split(sizes.tolist())
    return [torch.load(io.BytesIO(p.numpy().tobytes()), weights_only=True) for p in parts]


def batches_to_resume(
    parts: list[dict[str, Any]], precision: torch.dtype, num_samples: int
) -> Iterator[tuple[Tensor, Columns]]:
    """The batches from which this rank goes on, of what `state_of_all` returned.

    Raises:
        CheckpointError: samples and columns do not belong together.
        InputError: a sample outside of the dataset.
    """
    for number in distributed.parts_to_resume(len(parts)):
        if not parts[number]:
            continue
        index, sizes, columns = (parts[number][name] for name in ("index", "sizes", "columns"))
        if index.dtype != torch.int64 or index.ndim != 1 or "losses" not in columns:
            raise CheckpointError("the block's samples are not int64 [M], or have no losses.")
        check_range(index, num_samples)
        for name, values in columns.items():
            _check_column(name, values, precision, len(index))
        split = {name: values.split(sizes) for name, values in columns.items()}
        for batch, rows in enumerate(index.split(sizes)):
            yield rows.clone(), {name: parts_of[batch] for name, parts_of in split.items()}


def _check_column(name: str, values: Tensor, precision: torch.dtype, size: int) -> None:
    dtype = torch.int64 if name == "labels" else precision
    ndim = 2 if name in ("logits", "features") else 1
    is_known = name in FIELDS or name.startswith("signals.")
    if not is_known or values.dtype != dtype or values.ndim != ndim or len(values) != size:
        raise CheckpointError(f"the block's {name} are not {dtype} of {size} samples.")
