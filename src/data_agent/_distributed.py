"""What ranks exchange, and the only file that imports `torch.distributed`.

Indices travel as int64 and values as they are, each in a tensor of its own; ranks may hold
different numbers of rows. In a single process everything here is the identity.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from data_agent._errors import StateError


def world_size() -> int:
    """Number of ranks; 1 where no process group is initialised."""
    return dist.get_world_size() if _is_distributed() else 1


def rank() -> int:
    """This process's rank; 0 where no process group is initialised."""
    return dist.get_rank() if _is_distributed() else 0


def check_world(world: int, *, is_known: bool) -> None:
    """A loader that was built before the process group does not share the epoch.

    Args:
        world: how many ranks the loader deals to.
        is_known: whether there is a loader.

    Raises:
        StateError: several ranks would each train on everything.
    """
    if is_known and world < world_size():
        raise StateError(
            f"the loader deals an epoch to {world} rank(s), but {world_size()} take part: it was "
            "built before the process group. Build it after dist.init_process_group() "
            "(Fabric: after launch(); Lightning: in train_dataloader())."
        )


def gather_rows(*columns: Tensor) -> tuple[Tensor, ...]:
    """Concatenate the rows of all ranks, in rank order, the same on every rank.

    A collective call: every rank makes it, with columns of the same dtypes and widths.

    Args:
        columns: tensors `[M, ...]` with M rows of this rank (M may differ between ranks).

    Returns:
        For each column a tensor `[sum of M, ...]` on the column's own device.
    """
    if world_size() == 1:
        return columns
    shapes = [[len(column), *column.shape[1:]] for column in columns]
    shape = torch.tensor([n for column in shapes for n in column], device=_wire_device())
    all_shapes = torch.stack(_gather_equal(shape)).cpu()
    gathered: list[Tensor] = []
    for column in columns:
        sizes, rest = all_shapes[:, 0].tolist(), all_shapes[:, 1 : column.ndim].amax(0).tolist()
        all_shapes = all_shapes[:, column.ndim :]
        gathered.append(_gather_column(column, sizes, rest))
    return tuple(gathered)


def parts_to_resume(num_parts: int) -> range:
    """Of a state that `num_parts` ranks saved, whose parts this rank goes on from.

    As many ranks as then: its own. Another number: rank 0 takes all parts, so that nothing is lost
    and nothing is counted twice.
    """
    if num_parts == world_size():
        return range(rank(), rank() + 1)
    return range(num_parts) if rank() == 0 else range(0)


def rows_to_resume(column: Tensor, sizes: list[int]) -> Tensor:
    """Of rows `[sum of sizes, ...]` in rank order, as `gather_rows` made them, this rank's."""
    parts = column.split(sizes)
    own = [parts[part] for part in parts_to_resume(len(sizes))]
    return torch.cat(own) if own else column[:0].clone()


def total(count: int) -> int:
    """The sum of a number over all ranks; a collective call."""
    return int(gather_rows(torch.tensor([count]))[0].sum())


def _gather_column(column: Tensor, sizes: list[int], rest: list[int]) -> Tensor:
    """Rows of all ranks; a rank without rows may not know how wide they are (`rest`)."""
    padded = column.new_zeros((max(sizes), *rest))
    if len(column):
        padded[: len(column)] = column
    parts = _gather_equal(padded.to(_wire_device()))
    rows = [part[:size] for part, size in zip(parts, sizes, strict=True)]
    return torch.cat(rows).to(column.device)


def _gather_equal(tensor: Tensor) -> list[Tensor]:
    parts = [torch.empty_like(tensor) for _ in range(world_size())]
    dist.all_gather(parts, tensor.contiguous())
    return parts


def _wire_device() -> torch.device:
    """Where the backend reads from: NCCL only sees the GPU's memory."""
    if dist.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()
