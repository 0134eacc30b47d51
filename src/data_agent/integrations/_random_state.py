"""The random states that dropout draws from, where a framework does not save them itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from data_agent.runtime import distributed


def random_states(device: torch.device) -> dict[str, Tensor]:
    """Torch's states on the host and on `device`, one row a rank: a collective call."""
    states = {"cpu": torch.get_rng_state()}
    if (module := _module_of(device)) is not None:
        states[device.type] = module.get_rng_state(device)
    rows = distributed.gather_rows(*(state.cpu().unsqueeze(0) for state in states.values()))
    return dict(zip(states, rows, strict=True))


def set_random_states(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Take over what `random_states` returned; nothing where it is of another number of ranks."""
    rank = distributed.rank()
    if len(states["cpu"]) != distributed.world_size():
        return
    torch.set_rng_state(states["cpu"][rank].cpu().clone())
    module = _module_of(device)
    if module is not None and device.type in states:
        module.set_rng_state(states[device.type][rank].cpu().clone(), device)


def draw_as_an_iterator(loader: DataLoader[Any]) -> None:
    """Draw from torch's state what `iter(loader)` draws from it, for its worker processes."""
    keeps_workers = loader.persistent_workers and loader.num_workers > 0
    if loader.generator is None and not keeps_workers:
        iter(DataLoader(TensorDataset(torch.zeros(1))))


def _module_of(device: torch.device) -> Any:
    """torch.cuda and the like; None for the host."""
    if device.type == "cpu":
        return None
    module = torch.get_device_module(device)
    return module if hasattr(module, "get_rng_state") else None
