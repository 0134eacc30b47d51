"""Charts as inline SVG: lines over a common axis, where methods end, and quality against cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data_agent_lab.page.markup import Markup, joined, tag
from data_agent_lab.page.scales import Scale, spanning, tick_format
from data_agent_lab.page.styles import Style, marker, path_of, short
from data_agent_lab.results.findings import Row, Task
from data_agent_lab.results.statistics import Estimate
from data_agent_lab.results.tables import format_estimate
from data_agent_lab.runs.result import Metric

WIDTH, HEIGHT = 520, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 14, 26, 40
_LABEL_GAP = 14  # between the names at the ends of lines
_BESIDE = 10.0  # between points of one cost
MOST_NAMED = 6  # lines whose names stand at their ends


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One line of a chart."""

    name: str
    style: Style
    points: Sequence[tuple[float, float]]
    band: Sequence[tuple[float, float]] = ()  # by point the lowest and the highest value of a seed


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
    text: str, x: float, y: float, anchor: str = "start", class_: str | None = None
) -> Markup:
    """A text in a drawing; `anchor` is start, middle or end."""
    classes = [*([] if anchor == "start" else [anchor]), *([] if class_ is None else [class_])]
    return tag("text", text, x=short(x), y=short(y), class_=" ".join(classes) or None)


def line_chart(
    lines: Sequence[Line], *, x_title: str, y_title: str, label: str, y_range: Scale | None = None
) -> Markup:
    """Lines with the range of their seeds; names stand at their ends where they are few."""
    is_named = 1 < len(lines) <= MOST_NAMED
    longest = max(len(line.name) for line in lines)
    right = _RIGHT + (6.6 * min(longest, 16) + 6 if is_named else 0)
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points]
    ys += [end for line in lines for pair in line.band for end in pair]
    x = Scale(min(0.0, *xs), max(xs) or 1.0, _LEFT, WIDTH - right)
    y = spanning(ys, HEIGHT - _BOTTOM, _TOP)
    if y_range is not None:
        y = Scale(y_range.low, y_range.high, y.start, y.end)
    parts = [_axes(x, y, x_title=x_title, y_title=y_title)]
    parts += [_drawn_line(line, x, y) for line in lines]
    if is_named:
        parts.append(_names(lines, x, y))
    return drawing(*parts, label=label)


def _axes(x: Scale, y: Scale, *, x_title: str, y_title: str, every_x: bool = True) -> Markup:
    bottom, rows = y.start, y.ticks(5)
    grid = path_of_segments([(x.start, y(t), x.end, y(t)) for t in rows])
    y_text, columns = tick_format(rows), x.ticks(5) if every_x else []
    x_text = tick_format(columns)
    return tag(
        "g",
        tag("path", d=grid, class_="grid"),
        *[words(y_text(t), x.start - 8, y(t) + 4, "end") for t in rows],
        *[words(x_text(t), x(t), bottom + 17, "middle") for t in columns],
        words(x_title, x.end, bottom + 34, "end", "title"),
        words(y_title, 0, 12, class_="title"),
        class_="axes",
    )


def path_of_segments(segments: Iterable[tuple[float, float, float, float]]) -> str:
    """Level or upright segments (x1, y1, x2, y2) as one path."""
    return "".join(
        f"M{short(a)} {short(b)}" + (f"v{short(d - b)}" if a == c else f"h{short(c - a)}")
        for a, b, c, d in segments
    )


def _drawn_line(line: Line, x: Scale, y: Scale) -> Markup:
    points = [(x(a), y.inside(b)) for a, b in line.points]
    band = None
    if line.band:
        low = [(p[0], y.inside(pair[0])) for p, pair in zip(points, line.band, strict=True)]
        high = [(p[0], y.inside(pair[1])) for p, pair in zip(points, line.band, strict=True)]
        band = tag("path", d=f"{path_of([*low, *reversed(high)])}z", class_="band")
    (_, last), end = line.points[-1], points[-1]
    return tag(
        "g",
        tag("title", f"{line.name} {last:.4g}"),
        band,
        tag("path", d=path_of(points), class_="line"),
        marker(line.style, *end),
        class_=f"m {line.style.colour}",
        data_m=line.style.number,
    )


def _names(lines: Sequence[Line], x: Scale, y: Scale) -> Markup:
    """Names at the ends of lines, moved apart where they would cover each other."""
    ends = sorted(lines, key=lambda line: -line.points[-1][1])
    wanted = [y.inside(line.points[-1][1]) for line in ends]
    places = apart(wanted, _LABEL_GAP, top=_TOP, bottom=HEIGHT - _BOTTOM)
    return joined(
        tag(
            "g",
            words(line.name[:16], x(line.points[-1][0]) + 9, place + 4, class_="name"),
            class_=f"m {line.style.colour}",
            data_m=line.style.number,
        )
        for line, place in zip(ends, places, strict=True)
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


def forest_chart(
    rows: Sequence[Row], styles: Mapping[str, Style], metric: Metric, *, has_seeds: bool
) -> Markup:
    """Where methods end: the mean and its 95 % interval; with `has_seeds` seeds as ticks."""
    step = max(24.0, min(52.0, (HEIGHT - _TOP - _BOTTOM + 10) / len(rows)))
    left, right = 8.0 + 7.0 * max(len(row.method[:24]) for row in rows), 128.0
    height = _TOP + step * len(rows) + _BOTTOM - 10
    values = [value for row in rows for value in row.by_seed.values()]
    x = spanning(values, left + 16, WIDTH - right, margin=0.12)
    columns = x.ticks(4)
    text = tick_format(columns)
    bottom = _TOP + step * len(rows)
    grid = path_of_segments([(x(t), _TOP - 6, x(t), bottom) for t in columns])
    axes = tag(
        "g",
        tag("path", d=grid, class_="grid"),
        *[words(text(t), x(t), bottom + 16, "middle") for t in columns],
        words(axis_title(metric), 0, 12, class_="title"),
        class_="axes",
    )
    drawn = [
        _forest_row(row, styles[row.method], x, _TOP + step * (place + 0.5), metric, has_seeds)
        for place, row in enumerate(rows)
    ]
    label = f"{metric.in_words()} of {', '.join(row.method for row in rows)}, with intervals"
    return drawing(axes, *drawn, label=label, height=height)


def _forest_row(
    row: Row, style: Style, x: Scale, y: float, metric: Metric, has_seeds: bool
) -> Markup:
    value, half = format_estimate(row.value, digits=metric.digits), row.value.half_width or 0.0
    seeds = path_of_segments([(x(v), y - 7, x(v), y + 7) for v in row.by_seed.values()])
    low, high = x.inside(row.value.mean - half), x.inside(row.value.mean + half)
    return tag(
        "g",
        words(row.method[:24], 0, y + 4, class_="name"),
        tag("path", d=seeds, class_="seeds") if has_seeds else None,
        tag("path", d=path_of([(low, y), (high, y)]), class_="interval") if half else None,
        marker(style, x(row.value.mean), y),
        words(value.replace("+-", "\N{PLUS-MINUS SIGN}"), WIDTH, y + 4, "end", "value"),
        class_=f"m {style.colour}",
        data_m=style.number,
    )


def frontier_chart(task: Task, styles: Mapping[str, Style]) -> Markup:
    """Quality against cost: a point a method and budget, joined over budgets, with intervals."""
    rows = [row for cell in task.cells for row in cell.rows]
    metric = task.cells[0].metric
    values = [value for row in rows for value in row.by_seed.values()]
    x = Scale(0.0, max(105.0, *(105 * row.cost for row in rows)), _LEFT, WIDTH - _RIGHT)
    y = spanning(values, HEIGHT - _BOTTOM, _TOP, margin=0.1)
    places = _side_by_side({(row.method, row.cost): x(100 * row.cost) for row in rows})
    drawn: list[Markup] = []
    for method in dict.fromkeys(row.method for row in rows):
        own = {row.cost: row for row in rows if row.method == method}
        points = [(places[method, cost], own[cost].value) for cost in sorted(own)]
        drawn.append(_points(method, styles[method], points, y, metric))
    axes = _axes(x, y, x_title="cost, % of full training", y_title=axis_title(metric))
    return drawing(axes, *drawn, label=f"{metric.in_words()} against cost")


def _points(
    method: str,
    style: Style,
    points: Sequence[tuple[float, Estimate]],
    y: Scale,
    metric: Metric,
) -> Markup:
    """The points of a method from left to right, joined, with their intervals."""
    at = [(x, y(value.mean)) for x, value in points]
    bars = [
        (x, y.inside(value.mean - half), x, y.inside(value.mean + half))
        for x, value in points
        if (half := value.half_width)
    ]
    says = ", ".join(f"{value.mean:.{metric.digits}f}" for _, value in points)
    return tag(
        "g",
        tag("title", f"{method} {says}"),
        tag("path", d=path_of_segments(bars), class_="interval") if bars else None,
        tag("path", d=path_of(at), class_="line") if len(at) > 1 else None,
        *[marker(style, *place) for place in at],
        class_=f"m {style.colour}",
        data_m=style.number,
    )


def _side_by_side(places: Mapping[Any, float]) -> dict[Any, float]:
    """Points that would cover each other, moved apart from left to right."""
    columns: list[list[Any]] = []
    for key in sorted(places, key=lambda key: places[key]):
        if columns and places[key] - places[columns[-1][0]] < _BESIDE:
            columns[-1].append(key)
        else:
            columns.append([key])
    return {
        key: places[key] + _BESIDE * (number - (len(column) - 1) / 2)
        for column in columns
        for number, key in enumerate(column)
    }


def axis_title(metric: Metric) -> str:
    """Name and unit of a metric, and which values are better where that is not the usual."""
    return metric.in_words() + (", lower is better" if metric.sign < 0 else "")
