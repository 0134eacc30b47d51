"""Checkpoints: a nested dictionary in one safetensors file, written whole or not at all.

Tensors are stored as tensors; everything else is JSON in the file's metadata. Nothing is pickled,
so loading a foreign file runs no code. A checksum tells a damaged file from a whole one, and the
file before the last can be kept to fall back on.
"""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from data_agent.errors import CheckpointError, InputError
from data_agent.runtime.files import parse_json, replacing

__all__ = ["DamagedError", "load", "load_newest", "save"]
logger = logging.getLogger(__name__)

FORMAT = "data-agent-checkpoint"
VERSION = "2"
_READABLE = ("1", VERSION)
_REMEDY = "Restore it from a copy, or delete it to start over."


class DamagedError(CheckpointError):
    """The file is not whole, or another program's: no version of ours will ever read it."""


def save(path: Path, state: Mapping[Any, Any], *, previous: Path | None = None) -> None:
    """Write `state` to `path`, replacing what was there only once all is on disk.

    Args:
        path: the file; its folder exists.
        state: with str or int keys: tensors, bools, ints, floats, strings, None, and lists, tuples
            or dictionaries of these. Tensors come back on the CPU.
        previous: where the file that was at `path` goes, for `load_newest`; None drops it.

    Raises:
        InputError: a value of another type; the message says where.
        DataAgentError: the file could not be written; the old one is as it was.
    """
    tensors: dict[str, Tensor] = {}
    skeleton = json.dumps(_encode(state, "", tensors))
    metadata = {"skeleton": skeleton, "format": FORMAT, "version": VERSION}
    metadata["checksum"] = _checksum(metadata, tensors)
    with replacing(path, previous=previous) as temporary:
        try:
            save_file(tensors, temporary, metadata=metadata)
        except SafetensorError as error:  # all that can go wrong here is the disk
            raise OSError(str(error)) from error


def load(path: Path) -> dict[Any, Any]:
    """Read what `save` wrote. The tensors are the file's own pages: it must not be overwritten.

    Raises:
        CheckpointError: no such file, a damaged one, another program's, or one of a newer version.
    """
    try:
        return _load(path)
    except DamagedError as error:
        raise DamagedError(f"{error} {_REMEDY}") from error


def load_newest(*paths: Path) -> tuple[Path, dict[Any, Any]]:
    """Of files, the newest first, the first that is there and whole, and its state, in own memory.

    Damaged ones before it are named in a warning.

    Raises:
        CheckpointError: none is whole, or the newest that is has a newer version: it is good, and
            an older one would lose what was done since.
    """
    damage: list[str] = []
    for path in (path for path in paths if path.is_file()):
        try:
            state = _load(path, own_memory=True)
        except DamagedError as error:
            damage.append(str(error))
            continue
        for what in damage:
            logger.warning("%s Going on from the checkpoint before it, %s.", what, path)
        return path, state
    if not damage:
        raise CheckpointError(f"there is no checkpoint at {' or '.join(map(str, paths))}.")
    remedy = _REMEDY if len(damage) == 1 else "Restore one from a copy, or delete them."
    raise DamagedError(f"{' '.join(damage)} {remedy}")


def _load(path: Path, *, own_memory: bool = False) -> dict[Any, Any]:
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint at {path}.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = cast("dict[str, str]", file.metadata() or {})
            _check_origin(path, metadata)
            tensors = {name: file.get_tensor(name) for name in cast("list[str]", file.keys())}
        if own_memory:  # else they change if somebody copies another file over this one
            tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    except PermissionError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}).") from error
    except (SafetensorError, OSError) as error:
        raise DamagedError(f"{path} is damaged or no checkpoint ({error}).") from error
    if metadata.get("checksum") != _checksum(metadata, tensors):
        raise DamagedError(f"{path} is damaged: its checksum does not match.")
    try:  # whoever made a file with a good checksum by hand reaches this
        state = _decode(parse_json(metadata["skeleton"]), tensors)
    except (LookupError, TypeError, ValueError, RecursionError) as error:
        raise DamagedError(f"{path} is damaged: its content makes no sense ({error}).") from error
    if not isinstance(state, dict):
        raise DamagedError(f"{path} is damaged: it holds no dictionary.")
    return cast("dict[Any, Any]", state)


def _check_origin(path: Path, metadata: Mapping[str, str]) -> None:
    if metadata.get("format") != FORMAT:
        raise DamagedError(
            f"{path} is a safetensors file, but no checkpoint of data-agent (its format is "
            f"{metadata.get('format')!r}, expected {FORMAT!r})."
        )
    if (version := metadata.get("version")) not in _READABLE:
        raise CheckpointError(
            f"{path} is a checkpoint of version {version}, this data-agent reads version "
            f"{' and '.join(_READABLE)}. Use the data-agent that wrote it, or a newer one."
        )


def _encode(value: Any, where: str, tensors: dict[str, Tensor]) -> Any:
    """JSON for `value`; its tensors go to `tensors` under the name of their place.

    Containers and tensors become one-entry objects whose key is their kind, so that no dictionary
    of the caller can be mistaken for one.
    """
    place = where or "/"
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        name = f"{len(tensors)}{where}"
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()
        return {"tensor": name}
    if isinstance(value, Mapping):
        items = cast("Mapping[object, Any]", value).items()
        for key, _ in items:
            if not isinstance(key, str | int) or isinstance(key, bool):
                raise InputError(f"the state at {place} has the key {key!r}; cannot be saved.")
        return {"dict": [(key, _encode(item, f"{where}/{key}", tensors)) for key, item in items]}
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        items = enumerate(cast("Sequence[Any]", value))
        return {kind: [_encode(item, f"{where}/{i}", tensors) for i, item in items]}
    raise InputError(f"the state at {place} is a {type(value).__name__}; cannot be saved.")


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


def _checksum(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """CRC-32 over everything: safetensors itself notices truncation only."""
    total = zlib.crc32(metadata.get("skeleton", "").encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        if metadata["version"] != "1":  # the bytes of a [2, 3] and of a [3, 2] are the same
            total = zlib.crc32(f"{tensor.dtype} {list(tensor.shape)}".encode(), total)
        # A single value may keep the stride of the tensor it was part of.
        flat = tensor.contiguous().as_strided((tensor.numel(),), (1,))
        total = zlib.crc32(flat.view(torch.uint8).numpy().data, total)
    return f"{total:08x}"
