"""What every chart is made of: a figure with its title, axes, texts and segments, as SVG."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from data_agent_lab.page.markup import Markup, tag
from data_agent_lab.page.scales import Scale, tick_format
from data_agent_lab.page.styles import short

WIDTH, HEIGHT = 520, 300


def figure(title: str, drawing: Markup, note: str | None = None) -> Markup:
    """A chart with its title and, below it, a note."""
    caption = tag("figcaption", tag("b", title), tag("span", note) if note else None)
    return tag("figure", caption, drawing, class_="chart")


def drawing(
    *parts: Markup | None, label: str, width: int = WIDTH, height: float = HEIGHT
) -> Markup:
    """An SVG that scales with the page; `label` says to screen readers what it shows."""
    box = f"0 0 {width} {short(height)}"
    return tag("svg", *parts, viewBox=box, role="img", aria_label=label)


def words(
    text: str,
    x: float,
    y: float,
    anchor: str = "start",
    class_: str | None = None,
    *,
    most: int | None = None,
) -> Markup:
    """A text in a drawing; `anchor` is start, middle or end.

    One of more than `most` characters is cut, and shown whole where one points at it.
    """
    classes = [*([] if anchor == "start" else [anchor]), *([] if class_ is None else [class_])]
    whole = None
    if most is not None and len(text) > most:
        whole, text = tag("title", text), text[: most - 1] + "\N{HORIZONTAL ELLIPSIS}"
    return tag("text", whole, text, x=short(x), y=short(y), class_=" ".join(classes) or None)


def axes(x: Scale, y: Scale, *, x_title: str, y_title: str) -> Markup:
    """Both axes, with a line for each round value of the upright one."""
    rows = y.ticks(5)
    grid = path_of_segments([(x.start, y(tick), x.end, y(tick)) for tick in rows])
    text = tick_format(rows)
    return tag(
        "g",
        tag("path", d=grid, class_="grid"),
        tag(
            "g",
            *[tag("text", text(tick), y=short(y(tick) + 4)) for tick in rows],
            class_="end",
            transform=f"translate({short(x.start - 8)})",
        ),
        level_ticks(x, x.ticks(5), y.start + 17),
        words(x_title, x.end, y.start + 34, "end", "title"),
        words(y_title, 0, 12, class_="title") if y_title else None,
        class_="axes",
    )


def level_ticks(x: Scale, ticks: Sequence[float], y: float) -> Markup:
    """The numbers of a level axis."""
    text = tick_format(ticks)
    return tag(
        "g",
        *[tag("text", text(tick), x=short(x(tick))) for tick in ticks],
        class_="middle",
        transform=f"translate(0 {short(y)})",
    )


def path_of_segments(segments: Iterable[tuple[float, float, float, float]]) -> str:
    """Level or upright segments (x1, y1, x2, y2) as one path."""
    return "".join(
        f"M{short(a)} {short(b)}" + (f"v{short(d - b)}" if a == c else f"h{short(c - a)}")
        for a, b, c, d in segments
    )


def apart(places: Sequence[float], gap: float, *, top: float, bottom: float) -> list[float]:
    """Ascending places with at least `gap` between them, near what was wanted."""
    found: list[float] = []
    for place in places:
        found.append(max(place, found[-1] + gap if found else top))
    excess = found[-1] - bottom if found else 0.0
    for number in range(len(found) - 1, -1, -1):  # back up from the bottom
        if excess <= 0:
            break
        limit = bottom - gap * (len(found) - 1 - number)
        found[number] = min(found[number], limit)
    return found
