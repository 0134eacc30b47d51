"""Pages for programs that read: what directives of the reference name is written out in them."""

from __future__ import annotations

import contextlib
import inspect
import re
from importlib import import_module
from typing import Any


def expanded(text: str) -> str:
    """A page with the signature and docstring of what its directives name, in their place."""

    def expand(match: re.Match[str]) -> str:
        found, options = object_of(match[1]), match[2]
        if inspect.ismodule(found):
            names = [f"{match[1]}.{name}" for name in found.__all__]
            return "\n\n".join([inspect.getdoc(found) or "", *map(told_of, names)]) + "\n"
        if listed := re.search(r"members: \[(.*?)\]", options, flags=re.DOTALL):
            return told_of(match[1], members=re.findall(r"\w+", listed[1])) + "\n"
        return told_of(match[1], members=() if "members: false" in options else None) + "\n"

    return re.sub(r"^::: ([\w.]+)\n((?:    .+\n)*)", expand, text, flags=re.MULTILINE)


def object_of(path: str) -> Any:
    """A module, class or function by its dotted path."""
    try:
        return import_module(path)
    except ModuleNotFoundError:
        module, _, name = path.rpartition(".")
        return getattr(import_module(module), name)


def told_of(path: str, *, members: Any = None) -> str:
    """The heading, signature and docstring of a public name, and those of a class's methods.

    Args:
        path: the dotted path.
        members: names of methods; None takes all public ones that the library defines.
    """
    found, name = object_of(path), path.rpartition(".")[2]
    parts = [f"### {path}"]
    if not callable(found):
        return parts[0]
    parts += [signature_of(name, found), own_doc(found)]
    if inspect.isclass(found):
        if members is None:
            public = inspect.getmembers(found, callable)
            members = [one for one, value in public if not one.startswith("_") and is_ours(value)]
        for member in members:
            value = inspect.getattr_static(found, member)
            if callable(value) or isinstance(value, classmethod | staticmethod):
                value = getattr(found, member)
                parts += [f"#### {name}.{member}", signature_of(member, value), own_doc(value)]
            elif isinstance(value, property):
                parts += [f"#### {name}.{member}", own_doc(value)]
    return "\n\n".join(part for part in parts if part)


def signature_of(name: str, found: Any) -> str:
    """How it is called; nothing of a type that does not say."""
    with contextlib.suppress(ValueError):
        return f"```python\n{name}{inspect.signature(found)}\n```"
    return ""


def own_doc(found: Any) -> str:
    """A docstring; a dataclass without one has its signature in its place, which is shown."""
    told = inspect.getdoc(found) or ""
    return "" if inspect.isclass(found) and told.startswith(f"{found.__name__}(") else told


def is_ours(value: Any) -> bool:
    """Whether a method is defined in the library, and not by torch or Python."""
    return (getattr(value, "__module__", None) or "").startswith("data_agent")


def gist_of(text: str) -> str:
    """The first sentence of a page, in plain words."""
    body = re.sub(r"<!--.*?-->|^!\[.*?\]\(.*?\)|^```.*?^```", "", text, flags=re.M | re.S)
    first = next(part for part in body.split("\n\n")[1:] if re.match(r"\s*[\w*`\[\"]", part))
    words = " ".join(re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", first).replace("**", "").split())
    gist = re.split(r"(?<=[.?]) (?=[A-Z`(])", words)[0]
    return gist if gist.endswith((".", "?")) else f"{gist.rstrip(':')}."
