"""What a method must be given before training, made by its `prepare` and paid for.

Visits of the proxies, looks at the samples, and the seconds of everything count. The result is a
function of the seed, but on an accelerator only up to rounding, so a run that is continued reads it
from the run's folder (`prepare_once`) instead of making it again.
"""

from __future__ import annotations

import zlib
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from data_agent import SelectionSchedule
from data_agent.errors import CheckpointError
from data_agent.methods import method_class
from data_agent.runtime import checkpoint, distributed
from data_agent_lab.training.devices import Stopwatch
from data_agent_lab.training.proxy import Proxy


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Preparation:
    """A method's options, and what they cost.

    Args:
        options: further arguments of `make_selector`.
        num_forward: samples that went through a model.
        num_backward: samples that went through its backward pass.
        seconds: of all of it; zero where no model was trained.
        cpu_seconds: processor time of all of it.
    """

    options: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    num_forward: int = 0
    num_backward: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0


def prepare(method: str, proxy: Proxy) -> Preparation:
    """Make what `method` must be given; nothing at no cost for methods that need nothing.

    Leaves torch's global generators as they were.

    Args:
        method: name for `make_selector`.
        proxy: how to train.

    Raises:
        InputError: a method that does not say how its scores or groups are made.
    """
    counted = replace(proxy)  # its counts begin at zero
    budget = SelectionSchedule(
        num_samples=len(proxy.labels), epochs=proxy.recipe.epochs, keep_ratio=proxy.keep_ratio
    )
    stopwatch = Stopwatch(proxy.device)
    cuda = [proxy.device] if proxy.device.type == "cuda" else []
    with torch.random.fork_rng(cuda):
        stopwatch.start()
        options = method_class(method).prepare(counted, budget)
        stopwatch.stop()
    if not counted.num_forward:
        return Preparation(options=options)
    return Preparation(
        options=options,
        num_forward=counted.num_forward,
        num_backward=counted.num_backward,
        seconds=stopwatch.seconds,
        cpu_seconds=stopwatch.cpu_seconds,
    )


def prepare_once(path: Path, method: str, proxy: Proxy) -> Preparation:
    """`prepare`, or what it returned when it was called before for this run.

    Args:
        path: file in the run's folder; written whole or not at all, by rank 0.
        method: name for `make_selector`.
        proxy: how to train.

    Raises:
        CheckpointError: the file is damaged, or of another method or other labels.
        InputError: as `prepare`.
    """
    origin = {"method": method, "labels": zlib.crc32(proxy.labels.contiguous().numpy().tobytes())}
    if path.is_file():
        state = checkpoint.load(path)
        if state.get("origin") != origin:
            raise CheckpointError(
                f"{path} was made for other data or another method. Delete it with its run, or "
                "choose another --output."
            )
        return Preparation(**state["preparation"])
    preparation = prepare(method, proxy)
    if preparation.num_forward and distributed.rank() == 0:
        checkpoint.save(path, {"origin": origin, "preparation": asdict(preparation)})
    return preparation
