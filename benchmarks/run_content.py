"""What the files of a run hold, and whether two runs hold the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from data_agent.runtime import checkpoint

_CLOCKS = ("seconds", "overhead")


def outcome(runs: Sequence[str], folder: Path) -> dict[str, str]:
    """Every file of the runs, and a digest of all in it that is no clock's."""
    found: dict[str, str] = {}
    for run in runs:
        for path in sorted((folder / run).iterdir()):
            found[f"{run}/{path.name}"] = digest(content_of(path))
    return found


def content_of(path: Path) -> Any:
    """What a file holds; None where its name is all that must be equal."""
    if path.suffix == ".safetensors":
        return checkpoint.load(path)
    if path.suffix == ".pt":
        return torch.load(path, weights_only=True)
    if path.name == "metrics.jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if path.name in ("result.json", "config.json"):
        return json.loads(path.read_text(encoding="utf-8"))
    return None  # what it ran on, and when: of each session


def digest(value: Any) -> str:
    """Of nested content, leaving out what depends on the clock."""
    return hashlib.sha256(b"\n".join(leaves(value, "root"))).hexdigest()


def leaves(value: Any, where: str) -> Iterator[bytes]:
    """A line for each value that a container holds."""
    if isinstance(value, dict):
        for key, item in value.items():
            if not any(clock in str(key) for clock in _CLOCKS):
                yield from leaves(item, f"{where}/{key}")
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from leaves(item, f"{where}/{number}")
    elif isinstance(value, torch.Tensor):
        data = value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        yield f"{where} {value.dtype} {list(value.shape)} ".encode() + data
    else:
        yield f"{where} {value!r}".encode()
