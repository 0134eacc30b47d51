"""Several processes that train one model, as `torchrun` starts them: each computes its share.

Rank 0 writes the run's folder; everything else is the same on all ranks.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import nn

from data_agent.errors import InputError, StateError
from data_agent.runtime import distributed
from data_agent.runtime.random import Purpose, derived_seed
from data_agent_lab.recipes import Recipe
from data_agent_lab.runs.folder import RunFolder, open_run

TIMEOUT = timedelta(minutes=10)  # a rank waits so long for the others, then it ends with an error


def num_started() -> int:
    """How many ranks `torchrun` started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_restart() -> bool:
    """Whether `torchrun --max-restarts` started these processes in the place of failed ones."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


def joined_ranks(recipe: Recipe) -> AbstractContextManager[None]:
    """Be one of the ranks that `torchrun` started while the block runs; alone, nothing.

    Raises:
        InputError: as `choose_device`.
        StateError: the ranks do not find each other.
    """
    if num_started() == 1:
        return nullcontext()
    is_cuda = choose_device(recipe.device).type == "cuda"
    backend = "cpu:gloo,cuda:nccl" if is_cuda else "gloo"
    return distributed.joined(backend=backend, timeout=TIMEOUT)


def choose_device(name: str) -> torch.device:
    """The device of a recipe; of several ranks each gets an accelerator of its own.

    Args:
        name: auto (cuda or mps if present, else cpu), or a device as torch names it.

    Raises:
        InputError: no such device here, or fewer than ranks on this machine.
    """
    if num_started() > 1 and name not in ("auto", "cpu", "cuda"):
        raise InputError(
            f"--device {name} cannot be shared by {num_started()} ranks. Use --device cuda, of "
            "which each rank takes its own, or cpu."
        )
    device = _device(name)
    if num_started() == 1:
        return torch.device("cuda", 0) if device == torch.device("cuda") else device
    if device.type != "cuda":
        return torch.device("cpu")
    number, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if number >= count:
        raise InputError(
            f"rank {number} of this machine finds {count} CUDA device(s). Start at most as many "
            f"with --nproc-per-node {count}, or use --device cpu."
        )
    device = torch.device("cuda", number)
    torch.cuda.set_device(device)
    return device


def _device(name: str) -> torch.device:
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"--device {name} cannot be used here: {reason}. Expected auto, cpu, cuda, cuda:1 or "
            "mps."
        ) from error
    return device


def batch_of_rank(batch_size: int) -> int:
    """A rank's part of a batch of all ranks; `InputError` if these cannot share it evenly."""
    world = distributed.world_size()
    if batch_size % world:
        raise InputError(
            f"--batch-size {batch_size} counts the samples of all ranks together, and {world} "
            f"ranks cannot share it. Use a multiple of {world}."
        )
    return batch_size // world


def share_model(model: nn.Module) -> nn.Module:
    """What to call to train `model`, the same on every rank: around it what averages gradients."""
    return model if distributed.world_size() == 1 else nn.parallel.DistributedDataParallel(model)


def seed_rank(seed: int, step: int = 0) -> None:
    """Seed torch's global generator, on each rank with another seed: dropout is drawn from it."""
    number = distributed.rank()
    torch.manual_seed(derived_seed(seed, Purpose.NETWORK, number, step) if number else seed)


@torch.no_grad()
def share_buffers(model: nn.Module) -> None:
    """Take over rank 0's running statistics: what is evaluated is what its checkpoint holds."""
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.copy_(distributed.from_first(buffer))


def added_up(*values: float) -> list[float]:
    """Each value summed over all ranks; a collective call."""
    (rows,) = distributed.gather_rows(torch.tensor([values], dtype=torch.float64))
    return rows.sum(0).tolist()


def on_any_rank(*flags: bool) -> list[bool]:
    """Of each flag whether any rank has it set, so that all do the same; a collective call."""
    return [count > 0 for count in added_up(*map(float, flags))]


def check_same_step(step: int) -> None:
    """Raise `StateError` if the ranks do not share the run's folder; a collective call."""
    (steps,) = distributed.gather_rows(torch.tensor([step]))
    if not (steps == step).all():
        raise StateError(
            f"the ranks would go on from different steps ({steps.tolist()}, 0 where there is no "
            "checkpoint): the run's folder must lie on a file system that all machines share."
        )


@contextmanager
def open_run_together(
    path: Path, config: Mapping[str, Any], *, resume: bool
) -> Generator[RunFolder]:
    """As `open_run` on rank 0, whose refusal ends the other ranks too; these may only read."""
    folder = RunFolder(path)
    with ExitStack() as stack:
        with distributed.failing_together():
            if distributed.rank() == 0:
                folder = stack.enter_context(open_run(path, config, resume=resume))
        yield folder
