"""What ranks exchange, and the only file that imports `torch.distributed`.

Indices travel as int64 and values as they are, each in a tensor of its own; ranks may hold
different numbers of rows. In a single process everything here is the identity.

Exchanges run in a group of our own, over the host: another rank's gradients are never taken for
its rows, and what fails or takes too long is an error here instead of the end of the process.
"""

from __future__ import annotations

import itertools
import json
import os
import weakref
import zlib
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from data_agent.errors import DataAgentError, InputError, LostRankError, StateError

__all__ = [
    "alone",
    "check_world",
    "explained",
    "failing_together",
    "from_first",
    "gather_rows",
    "joined",
    "parts_to_resume",
    "rank",
    "rows_to_resume",
    "together",
    "total",
    "world_size",
]
_HEADER = 4096  # bytes ahead of every exchange: who calls, and dtypes and shapes, in JSON
_HOST = torch.device("cpu")
_call: ContextVar[str | None] = ContextVar("_call", default=None)
_is_alone: ContextVar[bool] = ContextVar("_is_alone", default=False)
_joins = itertools.count()  # how often this process joined others, as often as they did
_own: tuple[Any, Any] = (None, None)  # weak references to torch's group of all ranks, and to ours


def world_size() -> int:
    """Number of ranks; 1 where no process group is initialised."""
    return dist.get_world_size() if _is_distributed() else 1


def rank() -> int:
    """This process's rank; 0 where no process group is initialised."""
    return dist.get_rank() if _is_distributed() else 0


def check_world(world: int, *, is_known: bool) -> None:
    """A loader that deals to `world` ranks was built after the process group, if it `is_known`.

    Raises:
        StateError: several ranks would each train on everything.
    """
    if is_known and world < world_size():
        raise StateError(
            f"the loader deals an epoch to {world} rank(s), but {world_size()} take part: it was "
            "built before the process group. Build it after dist.init_process_group() "
            "(Fabric: after launch(); Lightning: in train_dataloader())."
        )


@contextmanager
def joined(*, backend: str, timeout: timedelta) -> Generator[None]:
    """Be one of the ranks that `torchrun` started while the block runs.

    Takes backend and timeout as `torch.distributed.init_process_group` does.

    Raises:
        LostRankError: the ranks do not find each other.
    """
    with together("joining the process group"), explained():
        store, number, world = next(dist.rendezvous("env://", timeout=timeout))
        # torchrun hands out one store, with addresses in it of groups that ended, or were killed.
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = dist.PrefixStore(f"attempt_{attempt}_{next(_joins)}", store)
        dist.init_process_group(
            backend, store=store, rank=number, world_size=world, timeout=timeout
        )
    yield
    # After an error nobody is asked to end together: another rank may never answer.
    dist.destroy_process_group()


@contextmanager
def alone() -> Generator[None]:
    """Exchange nothing while the block runs: a single process, whatever others there are."""
    token = _is_alone.set(True)
    try:
        yield
    finally:
        _is_alone.reset(token)


@contextmanager
def together(call: str) -> Generator[None]:
    """Name the call that all ranks make while the block runs, or the part of one."""
    outer = _call.get()
    token = _call.set(f"{outer}, {call}" if outer else call)
    try:
        yield
    finally:
        _call.reset(token)


@contextmanager
def explained() -> Generator[None]:
    """What `torch.distributed` raises in the block becomes an error that says who waited for whom.

    Raises:
        LostRankError: another rank died, hung, or did not make the same call.
    """
    try:
        yield
    except (RuntimeError, ValueError) as error:
        if isinstance(error, DataAgentError) or not _is_of_ranks(error):
            raise
        reason = str(error).split("\n")[0]
        raise LostRankError(
            f"rank {rank()} waited for the other ranks in {_call.get() or 'an exchange'}, and they "
            "did not answer: one died, hangs, or did not make the same call (every rank makes the "
            "same calls in the same order: begin_epoch, learn for each batch, state_dict). The "
            f"first rank that failed says why in its own log. torch reports: {reason}"
        ) from error


@contextmanager
def failing_together() -> Generator[None]:
    """Let an error that one rank meets in the block end all ranks; a collective call.

    Raises:
        DataAgentError: this rank's own, or InputError with the words of the first that has one.
    """
    error: DataAgentError | None = None
    try:
        yield
    except DataAgentError as own:
        if world_size() == 1 or isinstance(own, LostRankError):
            raise
        error = own
    text = torch.tensor(list(str(error or "").encode()), dtype=torch.uint8)
    size, texts = gather_rows(torch.tensor([len(text)]), text)
    if error is not None:
        raise error
    if len(texts):
        first = int(size.nonzero()[0])
        said = texts.split(size.tolist())[first]
        raise InputError(f"rank {first}: {bytes(said.tolist()).decode()}")


def gather_rows(*columns: Tensor) -> tuple[Tensor, ...]:
    """Concatenate the rows of all ranks, in rank order, the same on every rank.

    A collective call: every rank makes it, with columns of the same dtypes and widths.

    Args:
        columns: tensors `[M, ...]` with M rows of this rank (M may differ between ranks).

    Returns:
        For each column a tensor `[sum of M, ...]` on the column's own device.

    Raises:
        LostRankError: the ranks make different calls, or one of them does not answer.
    """
    if world_size() == 1:
        return columns
    with explained():
        shapes = zip(*_shapes_of_all(columns), strict=True)
        return tuple(map(_gather_column, columns, shapes))


def check_alike(values: Mapping[str, object], what: str) -> None:
    """What every rank must have alike; a collective call, with the same names on every rank.

    Raises:
        InputError: on every rank, the names of what they have unlike.
    """
    if world_size() == 1:
        return
    digests = [zlib.crc32(repr(value).encode()) for value in values.values()]
    (of_all,) = gather_rows(torch.tensor([digests]))
    differs = (of_all != of_all[0]).any(0).tolist()
    if names := [name for name, is_unlike in zip(values, differs, strict=True) if is_unlike]:
        raise InputError(
            f"the {what} of the {len(of_all)} ranks differ in {', '.join(names)}: each would "
            "choose other samples. Build them with the same arguments on every rank, the seed "
            "among them; the loader gives each rank batches of its own."
        )


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


def from_first(tensor: Tensor) -> Tensor:
    """Rank 0's `tensor`, which has at least one dimension; a collective call."""
    return gather_rows(tensor if rank() == 0 else tensor[:0])[0]


def _shapes_of_all(columns: tuple[Tensor, ...]) -> list[list[list[int]]]:
    """Each rank's shapes of its columns, once all turn out to make the same call.

    Ranks that make different calls would take each other's rows for what they are not.
    """
    call = (_call.get() or "an exchange")[:1000]
    kinds = [[c.element_size(), c.is_floating_point(), c.ndim] for c in columns]
    header = json.dumps([call, kinds, [list(column.shape) for column in columns]]).encode()
    assert len(header) <= _HEADER, "too many columns for one exchange"
    own = torch.frombuffer(bytearray(header.ljust(_HEADER)), dtype=torch.uint8)
    headers = [json.loads(bytes(part.tolist())) for part in _gather_equal(own)]
    if any(other[:2] != headers[0][:2] for other in headers):
        named = ", ".join(f"rank {i} in {other[0]}" for i, other in enumerate(headers))
        raise LostRankError(
            f"the ranks make different calls: {named}. Every rank makes the same calls in the same "
            "order, each of its batches observed: did one skip learn() for some batches, leave the "
            "epoch early, or call state_dict() alone? Nothing was exchanged."
        )
    return [shapes for _, _, shapes in headers]


def _gather_column(column: Tensor, shapes: tuple[list[int], ...]) -> Tensor:
    """Rows of all ranks; a rank without rows may not know how wide they are."""
    padded = column.new_zeros([max(sizes) for sizes in zip(*shapes, strict=True)])
    if len(column):
        padded[: len(column)] = column
    parts = zip(_gather_equal(padded), shapes, strict=True)
    return torch.cat([part[: shape[0]] for part, shape in parts]).to(column.device)


def _gather_equal(tensor: Tensor) -> list[Tensor]:
    group, device = _exchange_group()
    tensor = tensor.to(device).contiguous()
    parts = [torch.empty_like(tensor) for _ in range(world_size())]
    dist.all_gather(parts, tensor, group=group)
    return parts


def _exchange_group() -> tuple[Any, torch.device]:
    """The group that exchanges run in, made by the first one, and where it reads from."""
    global _own
    everyone = dist.group.WORLD
    if not dist.is_gloo_available():
        is_nccl = dist.get_backend() == "nccl"  # which only sees the GPU's memory
        return everyone, torch.device("cuda", torch.cuda.current_device()) if is_nccl else _HOST
    known, ours = (reference and reference() for reference in _own)
    if known is not everyone or ours is None:
        ours = dist.new_group(backend="gloo", timeout=_timeout(everyone))
        _own = weakref.ref(everyone), weakref.ref(ours)  # torch holds them, and lets them go
    return ours, _HOST


def _timeout(group: Any) -> timedelta | None:
    """What the user gave to `init_process_group`; None, torch's default, where it does not tell."""
    for device in ("cpu", "cuda"):
        try:
            return group._get_backend(torch.device(device)).options._timeout
        except (RuntimeError, AttributeError):
            continue
    return None


def _is_of_ranks(error: Exception) -> bool:
    """Whether the backends or the rendezvous raised it; gloo has no error class of its own."""
    if not dist.is_available():
        return False
    text = str(error)
    names = ("gloo", "NCCL", "Timed out", "timed out", "rendezvous", "Connection", "connect()")
    return isinstance(error, dist.DistError) or any(name in text for name in names)


def _is_distributed() -> bool:
    return not _is_alone.get() and dist.is_available() and dist.is_initialized()
