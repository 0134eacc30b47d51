"""Real processes that find each other as `torchrun` lets them: by environment variables.

They are forks of a process that has imported what is slow to import, once for all tests.
"""

import gc
import os
import socket
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

IMPORTED_ONCE = [
    *("torch._dynamo", "accelerate", "lightning", "peft", "transformers.trainer"),
    *("trl.trainer.grpo_trainer", "trl.trainer.sft_trainer"),
]


def run_ranks(work, folder, *args, world=2):
    """Call `work(rank, *args)` in `world` processes; what each returned, in rank order.

    `work` is a function of a module. No process group is initialised: frameworks do that
    themselves, `join_group` does it for others.
    """
    folder = Path(folder)
    context = start_ranks(work, folder, *args, world=world)
    while not context.join():
        pass
    return [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in range(world)]


def start_ranks(work, folder, *args, world=2):
    """The processes of `run_ranks`, which nobody waits for."""
    mp.get_context("forkserver").set_forkserver_preload(IMPORTED_ONCE)
    return mp.start_processes(
        _run,
        args=(work, folder, world, _free_port(), args, dict(os.environ)),
        nprocs=world,
        join=False,
        start_method="forkserver",
    )


def join_group():
    """A gloo group of all ranks."""
    dist.init_process_group("gloo")


def _run(rank, work, folder, world, port, args, environment):
    gc.freeze()
    torch.set_num_threads(1)
    os.environ.clear()  # the parent's of when the first test forked
    os.environ |= environment
    os.environ |= {
        **{"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)},
        **{"LOCAL_WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
    }
    torch.save(work(rank, *args), folder / f"rank{rank}.pt")
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
    # A thread of gloo that still releases a Python object while the interpreter shuts down ends
    # the process with SIGABRT (seen once): all is written, so leave without shutting down.
    os._exit(0)


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
