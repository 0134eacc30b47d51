"""What every page is: one file that loads nothing, with its head, its header and its script."""

from __future__ import annotations

import base64
import hashlib
import json
from importlib import resources
from typing import Any

from data_agent_lab.page.markup import Markup, tag, verbatim

_PACKAGE = "data_agent_lab.page"


def document(
    name: str, *, nav: Markup | None, main: Markup, footer: Markup, numbers: dict[str, Any]
) -> str:
    """A page.

    Args:
        name: of what it shows; it stands in the window's title and beside the brand.
        nav: what stands below that, in view wherever one reads; None leaves it out.
        main: what it shows.
        footer: where its numbers come from.
        numbers: what can be read from the page as JSON, to six digits.
    """
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=_policy()),
        tag("title", f"{name} \N{MIDDLE DOT} Data Agent"),
        tag("style", verbatim(_resource("style.css"))),
    )
    body = tag(
        "body",
        tag("header", _bar(name), nav),
        main,
        footer,
        tag("script", verbatim(_as_json(numbers)), id="numbers", type="application/json"),
        tag("script", verbatim(_resource("script.js"))),
    )
    return "<!doctype html>\n" + tag("html", head, body, lang="en")


def _bar(name: str) -> Markup:
    return tag(
        "div",
        tag("p", tag("b", "Data Agent"), tag("span", name), class_="brand"),
        tag("button", "Dark", type="button", id="theme", aria_label="Switch light and dark"),
        class_="bar",
    )


def _policy() -> str:
    """Whatever data might bring in: the page loads nothing and runs its own script alone."""
    script, style = (
        base64.b64encode(hashlib.sha256(_resource(name).encode()).digest()).decode()
        for name in ("script.js", "style.css")
    )
    allowed = {"script-src": f"'sha256-{script}'", "style-src": f"'sha256-{style}'"}
    rules = {"default-src": "'none'", **allowed, "img-src": "data:"}
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def _resource(name: str) -> str:
    return resources.files(_PACKAGE).joinpath(name).read_text(encoding="utf-8")


def _as_json(numbers: dict[str, Any]) -> str:
    text = json.dumps(_rounded(numbers), separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(inner) for inner in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
