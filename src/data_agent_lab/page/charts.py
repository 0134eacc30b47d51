"""Charts as inline SVG: lines over a common axis, where methods end, and quality against cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data_agent_lab.page.drawing import (
    HEIGHT,
    WIDTH,
    apart,
    axes,
    drawing,
    level_ticks,
    path_of_segments,
    words,
)
from data_agent_lab.page.markup import Markup, tag
from data_agent_lab.page.scales import Scale, spanning
from data_agent_lab.page.styles import Style, marker, path_of
from data_agent_lab.results.findings import Row, Task
from data_agent_lab.results.statistics import Estimate
from data_agent_lab.results.tables import format_estimate
from data_agent_lab.runs.result import Metric

_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 14, 26, 40
_LABEL_GAP = 14  # between the names at the ends of lines
_BESIDE, _SPREAD = 10.0, 44.0  # between points of one cost, and from the first to the last
MOST_NAMED = 6  # lines whose names stand at their ends


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One line of a chart."""

    name: str
    style: Style
    points: Sequence[tuple[float, float]]
    band: Sequence[tuple[float, float]] = ()  # by point the lowest and the highest value of a seed


def line_chart(lines: Sequence[Line], *, x_title: str, y_title: str, label: str) -> Markup:
    """Lines with the range of their seeds; names stand at their ends where they are few."""
    is_named = 1 < len(lines) <= MOST_NAMED
    longest = max(len(line.name) for line in lines)
    right = _RIGHT + (6.6 * min(longest, 16) + 6 if is_named else 0)
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points]
    ys += [end for line in lines for pair in line.band for end in pair]
    x = Scale(min(0.0, *xs), max(xs) or 1.0, _LEFT, WIDTH - right)
    y = spanning(ys, HEIGHT - _BOTTOM, _TOP)
    names = _places_of_names(lines, y) if is_named else [None] * len(lines)
    drawn = [_drawn_line(line, x, y, place) for line, place in zip(lines, names, strict=True)]
    return drawing(axes(x, y, x_title=x_title, y_title=y_title), *drawn, label=label)


def _places_of_names(lines: Sequence[Line], y: Scale) -> list[float]:
    """Where names stand upright, moved apart where they would cover each other."""
    ends = [y(line.points[-1][1]) for line in lines]
    order = sorted(range(len(lines)), key=lambda number: ends[number])
    places = apart([ends[n] for n in order], _LABEL_GAP, top=_TOP, bottom=HEIGHT - _BOTTOM)
    by_line = dict(zip(order, places, strict=True))
    return [by_line[number] for number in range(len(lines))]


def _drawn_line(line: Line, x: Scale, y: Scale, name: float | None) -> Markup:
    points = [(x(a), y(b)) for a, b in line.points]
    band = None
    if line.band:
        low = [(p[0], y(pair[0])) for p, pair in zip(points, line.band, strict=True)]
        high = [(p[0], y(pair[1])) for p, pair in zip(points, line.band, strict=True)]
        band = tag("path", d=f"{path_of([*low, *reversed(high)])}z", class_="band")
    (_, last), end = line.points[-1], points[-1]
    return tag(
        "g",
        tag("title", f"{line.name} {last:.4g}"),
        band,
        tag("path", d=path_of(points), class_="line"),
        marker(line.style, *end),
        None if name is None else words(line.name, end[0] + 9, name + 4, class_="name", most=16),
        class_=f"m {line.style.colour}",
        data_m=line.style.number,
    )


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
    bottom = _TOP + step * len(rows)
    grid = path_of_segments([(x(t), _TOP - 6, x(t), bottom) for t in columns])
    ground = tag(
        "g",
        tag("path", d=grid, class_="grid"),
        level_ticks(x, columns, bottom + 16),
        words(axis_title(metric), 0, 12, class_="title"),
        class_="axes",
    )
    drawn = [
        _forest_row(row, styles[row.method], x, _TOP + step * (place + 0.5), metric, has_seeds)
        for place, row in enumerate(rows)
    ]
    label = f"{metric.in_words()} of {', '.join(row.method for row in rows)}, with intervals"
    return drawing(ground, *drawn, label=label, height=height)


def _forest_row(
    row: Row, style: Style, x: Scale, y: float, metric: Metric, has_seeds: bool
) -> Markup:
    value, half = format_estimate(row.value, digits=metric.digits), row.value.half_width or 0.0
    seeds = path_of_segments([(x(v), y - 7, x(v), y + 7) for v in row.by_seed.values()])
    low, high = x.inside(row.value.mean - half), x.inside(row.value.mean + half)
    return tag(
        "g",
        words(row.method, 0, y + 4, class_="name", most=24),
        tag("path", d=seeds, class_="seeds") if has_seeds else None,
        tag("path", d=path_of([(low, y), (high, y)]), class_="interval") if half else None,
        marker(style, x(row.value.mean), y),
        words(value.replace("+-", "\N{PLUS-MINUS SIGN}"), WIDTH, y + 4, "end", "value"),
        class_=f"m {style.colour}",
        data_m=style.number,
    )


def frontier_chart(task: Task, styles: Mapping[str, Style], *, has_intervals: bool) -> Markup:
    """Quality against cost: a point a method and budget, joined over budgets."""
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
        drawn.append(_points(method, styles[method], points, y, metric, has_intervals))
    ground = axes(x, y, x_title="cost, % of full training", y_title=axis_title(metric))
    return drawing(ground, *drawn, label=f"{metric.in_words()} against cost")


def _points(
    method: str,
    style: Style,
    points: Sequence[tuple[float, Estimate]],
    y: Scale,
    metric: Metric,
    has_intervals: bool,
) -> Markup:
    """The points of a method from left to right, joined, with their intervals."""
    at = [(x, y(value.mean)) for x, value in points]
    bars = [
        (x, y.inside(value.mean - half), x, y.inside(value.mean + half))
        for x, value in points
        if has_intervals and (half := value.half_width)
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
        key: places[key] + min(_BESIDE, _SPREAD / len(column)) * (number - (len(column) - 1) / 2)
        for column in columns
        for number, key in enumerate(column)
    }


def axis_title(metric: Metric) -> str:
    """Name and unit of a metric, and which values are better where that is not the usual."""
    return metric.in_words() + (", lower is better" if metric.sign < 0 else "")
