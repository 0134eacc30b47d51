"""HTML that is safe by how it is made: only `tag` makes markup, and it escapes every text."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable

_FORBIDDEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff"
    "\u202a-\u202e\u2066-\u2069]"  # the last two would turn what stands behind a text around
)
_WITHOUT_END = frozenset({"br", "img", "input", "meta"})
_OF_SVG = frozenset({"path", "line", "circle", "rect"})


class Markup(str):
    """A text that is HTML already; made by `tag`, `joined` and `trusted` alone."""

    __slots__ = ()


Child = str | float | None


def tag(name: str, /, *children: Child, **attributes: Child | bool) -> Markup:
    """An element of HTML or SVG.

    Args:
        name: of the element.
        children: what stands in it: markup as it is, any other text escaped, None left out.
        attributes: by name, with `_` for `-` and without a `_` at the end (`class_`); values are
            escaped. True stands alone; None and False leave the attribute out.
    """
    written = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in _WITHOUT_END:
        return Markup(f"<{name}{written}>")
    if name in _OF_SVG and not children:
        return Markup(f"<{name}{written}/>")
    return Markup(f"<{name}{written}>{joined(children)}</{name}>")


def named(name: str) -> Markup:
    """A name that data bring: one that is written from right to left leaves its sentence alone."""
    return tag("bdi", name)


def joined(children: Iterable[Child], between: str = "") -> Markup:
    """Markup of parts one after another; texts are escaped."""
    parts = (escaped(child) for child in children if child is not None)
    return Markup(between.join(parts))


def escaped(child: Child) -> Markup:
    """Markup as it is; of anything else its text, with what HTML reads as its own escaped."""
    return child if isinstance(child, Markup) else Markup(html.escape(plain(child), quote=True))


def plain(value: Child) -> str:
    """A number short, a text as it is but for characters that reach beyond it, or are forbidden."""
    if isinstance(value, float):
        return f"{value:.6g}"
    return _FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", str(value))


def verbatim(text: str) -> Markup:
    """Markup of a text that this package wrote itself, such as its style sheet; never of data."""
    return Markup(text)


def _attribute(key: str, value: Child | bool) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{escaped(value)}"'
