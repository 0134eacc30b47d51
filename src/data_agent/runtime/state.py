"""Checks of saved state: its header and its tensors."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from data_agent.errors import CheckpointError

STATE_VERSION = 12


def check_header(state: object, expected: Mapping[str, object]) -> None:
    """A saved state must be of this run.

    Raises:
        CheckpointError: not a state of ours, of another version or run; names each difference.
    """
    if not isinstance(state, dict) or "version" not in state or "selector" not in state:
        raise CheckpointError(
            "this is not the state of a selector: expected the dict that state_dict() returned."
        )
    if state["version"] != STATE_VERSION:
        raise CheckpointError(
            f"the state has version {state['version']!r}; this release reads version "
            f"{STATE_VERSION}. Use the release that wrote it."
        )
    differences = [
        _difference(name, state.get(name), value)
        for name, value in expected.items()
        if state.get(name) != value
    ]
    if differences:
        raise CheckpointError(
            f"the state is of another run: {'; '.join(differences)}. Build the selector as it was "
            "when the state was saved."
        )


def _difference(name: str, was: object, now: object) -> str:
    if name != "trusted":
        return f"{name} was {was!r}, here it is {now!r}"
    if was is None:
        return "it was without trusted rows, and here there are some (leave trusted= out)"
    return (
        f"it had trusted rows, and here there are {'none' if now is None else 'others'} (pass its "
        "positions as trusted=, or its rows as a Trainer's trusted_dataset=)"
    )


def require_tensor(
    state: Mapping[str, Any], name: str, *, shape: tuple[int, ...], dtype: torch.dtype
) -> Tensor:
    """A copy of the tensor `name` of a saved state; CheckpointError if it is missing or another."""
    value = state.get(name)
    if not isinstance(value, Tensor) or tuple(value.shape) != shape or value.dtype != dtype:
        found = f"{list(value.shape)} {value.dtype}" if isinstance(value, Tensor) else repr(value)
        raise CheckpointError(f"{name!r} is {found}; expected {list(shape)} {dtype}.")
    return value.clone()


def checksum(values: Tensor) -> int:
    """CRC-32 of a tensor's bytes: tells a saved state made with other inputs."""
    return zlib.crc32(values.contiguous().numpy().tobytes())
