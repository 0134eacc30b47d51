"""Checkpoints: a nested dictionary in one safetensors file, written whole or not at all.

Tensors are stored as tensors; everything else is JSON in the file's metadata. Nothing is pickled,
so loading a foreign file runs no code.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from data_agent._errors import CheckpointError, InputError
from data_agent._files import replacing

FORMAT = "data-agent-checkpoint"
VERSION = 1
_REMEDY = "Restore it from a copy, or delete it to start over."


def save(path: Path, state: Mapping[Any, Any]) -> None:
    """Write `state` to `path`, replacing what was there only once all is on disk.

    Args:
        path: the file; its folder exists.
        state: a dictionary with str or int keys of tensors, bools, ints, floats, strings, None,
            and lists, tuples or dictionaries of these. Tensors come back on the CPU.

    Raises:
        InputError: a value of another type; the message says where.
    """
    tensors: dict[str, Tensor] = {}
    metadata = {
        "skeleton": json.dumps(_encode(state, "", tensors)),
        "format": FORMAT,
        "version": str(VERSION),
    }
    metadata["checksum"] = _checksum(metadata["skeleton"], tensors)
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)


def load(path: Path) -> dict[Any, Any]:
    """Read what `save` wrote.

    Raises:
        CheckpointError: no such file, a damaged one, another program's, or one of a newer version.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint at {path}.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = cast("dict[str, str]", file.metadata() or {})
            _check_origin(path, metadata)
            tensors = {name: file.get_tensor(name) for name in cast("list[str]", file.keys())}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged or no checkpoint ({error}). {_REMEDY}") from error
    if metadata["checksum"] != _checksum(metadata["skeleton"], tensors):
        raise CheckpointError(f"{path} is damaged: its checksum does not match. {_REMEDY}")
    return _decode(json.loads(metadata["skeleton"]), tensors)


def _check_origin(path: Path, metadata: Mapping[str, str]) -> None:
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} is a safetensors file, but no checkpoint of data-agent (its format is "
            f"{metadata.get('format')!r}, expected {FORMAT!r})."
        )
    if metadata["version"] != str(VERSION):
        raise CheckpointError(
            f"{path} is a checkpoint of version {metadata['version']}, this data-agent reads "
            f"version {VERSION}. Use the data-agent that wrote it, or a newer one."
        )


def _encode(value: Any, where: str, tensors: dict[str, Tensor]) -> Any:
    """JSON for `value`; its tensors go to `tensors` under the name of their place.

    Containers and tensors become one-entry objects whose key is their kind, so that no dictionary
    of the caller can be mistaken for one.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        name = f"{len(tensors)}{where}"
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()
        return {"tensor": name}
    if isinstance(value, Mapping):
        return {"dict": _encode_items(cast("Mapping[object, Any]", value), where, tensors)}
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        items = enumerate(cast("Sequence[Any]", value))
        return {kind: [_encode(item, f"{where}/{i}", tensors) for i, item in items]}
    raise InputError(f"the state at {where or '/'} is a {type(value).__name__}; cannot be saved.")


def _encode_items(
    value: Mapping[object, Any], where: str, tensors: dict[str, Tensor]
) -> list[tuple[str | int, Any]]:
    items: list[tuple[str | int, Any]] = []
    for key, item in value.items():
        if not isinstance(key, str | int) or isinstance(key, bool):
            raise InputError(f"the state at {where or '/'} has the key {key!r}; cannot be saved.")
        items.append((key, _encode(item, f"{where}/{key}", tensors)))
    return items


def _decode(node: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(node, dict):
        return node
    ((kind, content),) = cast("dict[str, Any]", node).items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _decode(item, tensors) for key, item in content}
    items = [_decode(item, tensors) for item in content]
    return items if kind == "list" else tuple(items)


def _checksum(skeleton: str, tensors: Mapping[str, Tensor]) -> str:
    """CRC-32 over everything: safetensors itself notices truncation only."""
    total = zlib.crc32(skeleton.encode())
    for name in sorted(tensors):
        total = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy().data, total)
    return f"{total:08x}"
