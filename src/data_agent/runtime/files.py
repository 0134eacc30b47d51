"""Writing files so that a crash leaves the old one or the new one, never half of one."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data_agent.errors import DataAgentError, InputError

__all__ = [
    "append_line",
    "check_no_link",
    "parse_json",
    "read_text",
    "remove_leftovers",
    "replacing",
    "write_json",
    "write_text",
]
_TEMPORARY = re.compile(r"\..+\.\d+-[0-9a-f]{8}")
_MAX_JSON = 256 * 2**20  # bytes; ours have kilobytes, and what is larger would fill the memory


@contextmanager
def replacing(path: Path, *, previous: Path | None = None) -> Generator[Path]:
    """Yield a temporary path; once the block ends, it takes the place of `path`.

    If the block raises, what was there stays as it was. What was there goes to `previous`, where
    one is given; a crash between the two renames leaves it there and nothing at `path`.

    Raises:
        DataAgentError: the file could not be written: a full disk, a read-only folder.
    """
    # In a folder of its own: writers such as safetensors' have temporary files beside theirs too.
    folder = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    temporary = folder / path.name
    try:
        folder.mkdir()
        temporary.touch()
        mode = temporary.stat().st_mode  # what the user's umask gives; some writers are stricter
        yield temporary
        temporary.chmod(mode)
        _sync(temporary)
        if previous is not None and path.exists():
            path.replace(previous)
        temporary.replace(path)
        _sync(path.parent)
    except OSError as error:
        raise DataAgentError(
            f"{path} could not be written ({error.strerror or error}); what was there before is "
            "unchanged. Free some space, or let this user write there, and go on."
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of writers that were killed; none may be writing there now."""
    for entry in list(folder.iterdir()):
        if _TEMPORARY.fullmatch(entry.name):
            shutil.rmtree(entry, ignore_errors=True)  # which follows no link


def read_text(path: Path) -> str:
    """The text of a small file in UTF-8.

    Raises:
        InputError: a link, which could lead anywhere, or too large to be one of ours.
        OSError, UnicodeDecodeError: it cannot be read, or is no text.
    """
    check_no_link(path)
    if (size := path.stat().st_size) > _MAX_JSON:
        raise InputError(
            f"{path} has {size:,} bytes; a file of this kind has some thousands, and {_MAX_JSON:,} "
            "are read at most. Restore it from a copy, or delete its folder to start over."
        )
    return path.read_text(encoding="utf-8")


def check_no_link(path: Path) -> None:
    """What we write stays in its folder, and what we read lies there: InputError for a link."""
    if path.is_symlink():
        raise InputError(
            f"{path} is a link to {path.readlink()}; expected a file of its own. Put the file "
            "itself there, or remove the link. (The folder may be a link.)"
        )


def parse_json(text: str) -> Any:
    """JSON from disk; ValueError if it is none, or nested deeper than anything of ours."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def write_text(path: Path, text: str) -> None:
    """Replace `path` by `text` in UTF-8."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Replace `path` by `value` as indented JSON; NaN and infinity are refused (ValueError)."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def append_line(path: Path, text: str) -> None:
    """Add a line, on the disk when this returns; a crash leaves at most a line without its end."""
    check_no_link(path)
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise DataAgentError(
            f"{path} could not be written ({error.strerror or error}). Free some space, or let "
            "this user write there, and go on."
        ) from error


def _sync(path: Path) -> None:
    """Make the system write a file's content, or a folder's list of names, to the disk now."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
