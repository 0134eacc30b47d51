"""What the command answers to --help, as sections of a page."""

from __future__ import annotations

import contextlib
import io
import os
import re
from typing import Any, get_args, get_origin
from unittest import mock

from data_agent_lab.commands import Command, parse

_WIDTH = "200"  # so that a line of a help text stays one
_OWN = ("options", "positional arguments")  # what a command does not share with others


def help_sections() -> str:
    """A section a command, and one of what a run of images takes, which three commands share."""
    parts: list[str] = []
    of_run: list[str] = []
    for name in subcommands():
        told, groups = parsed(help_of(name))
        told = re.sub(r"\n\nFlags and defaults .*", "", told)  # which is told once, below
        parts += [f"## data-agent {name}", told]
        parts += [listed(groups[group]) for group in _OWN if group in groups]
        others = [flag for group, flags in groups.items() if group not in _OWN for flag in flags]
        of_run = of_run or others
        if others:
            parts.append("And the flags of [a run](#what-a-run-is).")
    told = (
        "`train`, `plan` and `compare` take these flags, with these defaults for `--task digits`. "
        "`compare` has `--methods`, `--keep-ratios` and `--seeds` in the place of the first three."
    )
    return "\n\n".join([*parts, "## What a run is", told, listed(of_run)])


def subcommands() -> list[str]:
    """The names that the command knows."""
    return [_plain(kind).__name__.lower() for kind in get_args(Command)]


def help_of(name: str) -> str:
    """The help of a subcommand, as a terminal shows it that has no frames."""
    shown = io.StringIO()
    wide = mock.patch.dict(os.environ, COLUMNS=_WIDTH)
    with wide, contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
        parse([name, "--help"])
    return "\n".join(line.rstrip() for line in shown.getvalue().splitlines())


def parsed(text: str) -> tuple[str, dict[str, list[str]]]:
    """What a help says of its command, and by group its flags, a paragraph each."""
    head, *rest = re.split(r"\n ?([a-z][\w. ]*)\n -+\n", text)
    told = head.partition("\n")[2].strip()
    groups: dict[str, list[str]] = {}
    for group, body in zip(rest[::2], rest[1::2], strict=True):
        flags: list[str] = []
        for line in body.splitlines():
            if re.match(r"  (-\w|--\w|[A-Z]{2})", line):
                name, _, told_of_it = line.strip().partition("  ")
                flags.append(f"`{name}`: {told_of_it.strip()}")
            elif flags and line.startswith("     "):
                flags[-1] += f" {line.strip()}"
        groups[group] = [re.sub(r"\s+", " ", flag) for flag in flags]
    return told, groups


def listed(flags: list[str]) -> str:
    """A list of flags, without --help itself."""
    return "\n".join(f"- {flag}" for flag in flags if not flag.startswith("`-h"))


def _plain(kind: Any) -> type:
    """The class of `Train[Any]`."""
    return get_origin(kind) or kind
