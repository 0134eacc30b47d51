"""How a method is drawn in every chart: a colour, a line and a shape that are its own.

Colours are those of Okabe and Ito (2008), which people with any common colour blindness tell apart;
the style sheet has them for light and dark. Shapes and dashes say the same once more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from data_agent_lab.page.markup import Markup, tag
from data_agent_lab.results.conclusions import OURS
from data_agent_lab.results.findings import CONTROLS

NUM_COLOURS = 6
SHAPES = ("circle", "diamond", "square", "triangle", "wedge")


@dataclass(frozen=True, slots=True)
class Style:
    """Of one method."""

    number: (
        int | None
    )  # of the method on the page, by which the script finds all that is drawn of it
    colour: str  # class of the style sheet
    shape: str


def styles_of(methods: Sequence[str]) -> dict[str, Style]:
    """A style for each method; controls are grey, and the first colours are our methods'."""
    ours = [method for method in OURS if method in methods]
    others = [*ours, *sorted({*methods} - {*CONTROLS, *ours})]
    styles = {
        method: Style(number, f"c{number % NUM_COLOURS}", SHAPES[number % len(SHAPES)])
        for number, method in enumerate(others)
    }
    for place, method in enumerate(CONTROLS):
        if method in methods:
            styles[method] = Style(len(styles), f"k{place}", "ring")
    return styles


def marker(style: Style, x: float, y: float) -> Markup:
    """The shape of a method at a place."""
    if style.shape in ("circle", "ring"):
        return tag("circle", class_=style.shape, cx=short(x), cy=short(y), r="4.2")
    outline = _OUTLINES[style.shape]
    return tag("path", class_="shape", d=f"M{short(x)} {short(y)}{outline}")


_OUTLINES = {  # from the middle
    "diamond": "m0-5.3 5.3 5.3-5.3 5.3-5.3-5.3z",
    "square": "m-4-4h8v8h-8z",
    "triangle": "m0-5 4.8 8.6h-9.6z",
    "wedge": "m0 5 4.8-8.6h-9.6z",
}


def path_of(points: Sequence[tuple[float, float]]) -> str:
    """The outline through points, to a tenth of a pixel."""
    return "M" + "L".join(f"{short(x)} {short(y)}" for x, y in points)


def short(value: float) -> str:
    """A place in a drawing, to a tenth of a pixel."""
    return f"{value:.1f}".removesuffix(".0")


def drawn_marker(style: Style) -> Markup:
    """A method's shape alone, for its name to stand beside."""
    return tag("svg", marker(style, 6, 6), viewBox="0 0 12 12", aria_hidden="true", class_="key")
