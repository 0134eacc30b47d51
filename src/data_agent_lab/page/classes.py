"""Whether selecting harms a class: its accuracy against random data and against full training."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean

from data_agent_lab.page.detail import Detail
from data_agent_lab.page.drawing import drawing, figure, level_ticks, path_of_segments, words
from data_agent_lab.page.markup import Markup, tag
from data_agent_lab.page.scales import Scale
from data_agent_lab.page.styles import Style, marker, path_of
from data_agent_lab.results.findings import OfClass, Row
from data_agent_lab.results.statistics import FEWEST_SEEDS, Estimate

_STEP, _TOP = 22, 26


def shown_classes(row: Row, detail: Detail) -> list[str]:
    """The classes that are drawn: all, or of many those with the largest differences."""
    names = list(row.classes)
    if len(names) <= detail.classes:
        return names
    by_change = sorted(names, key=lambda name: -abs(_change(row.classes[name])))
    chosen = set(by_change[: detail.classes])
    return [name for name in names if name in chosen]


def _against(found: OfClass) -> Estimate | None:
    return found.to_full if found.to_random is None else found.to_random


def _change(found: OfClass) -> float:
    difference = _against(found)
    return 0.0 if difference is None else difference.mean


def beyond_interval(found: Estimate | None) -> int:
    """1 or -1 if a difference lies beyond its interval of three seeds or more, else 0."""
    if found is None or found.half_width is None or found.count < FEWEST_SEEDS:
        return 0
    return (found.mean > found.half_width) - (found.mean < -found.half_width)


def classes_in_words(row: Row, control: str, metric: str) -> str:
    """Which classes a selection harms and helps beyond the seeds' intervals."""
    signs = {name: beyond_interval(_against(found)) for name, found in row.classes.items()}
    harmed = [name for name, sign in signs.items() if sign < 0]
    num_helped = sum(sign > 0 for sign in signs.values())
    worst = min(row.classes, key=lambda name: row.classes[name].mean)
    named = ", ".join(harmed[:5]) + (f" and {len(harmed) - 5} more" if len(harmed) > 5 else "")
    lost = f"{len(harmed)} of {len(signs)} classes lose ({named})" if harmed else "No class loses"
    found = f"{lost} against {control} beyond the seeds' intervals, {num_helped} gain."
    against = [_against(of_class) for of_class in row.classes.values()]
    if all(one is None or one.count < FEWEST_SEEDS for one in against):
        found = f"Whether classes lose against {control} is not known from so few seeds."
    lowest = f"{row.classes[worst].mean:.1f} % ({worst})"
    return f"{found} The lowest {metric} of a class is {lowest}."


def class_chart(row: Row, detail: Detail, metric: str) -> Markup | None:
    """By class the difference to random data, else to full training, else to the mean of classes.

    None where runs do not tell classes apart; `metric` is what they tell of each.
    """
    if not row.classes:
        return None
    found = {name: _against(row.classes[name]) for name in shown_classes(row, detail)}
    differences = {name: estimate for name, estimate in found.items() if estimate is not None}
    if differences:
        is_random = any(of_class.to_random is not None for of_class in row.classes.values())
        control = "random" if is_random else "full"
        note = classes_in_words(row, control, metric)
    else:
        control, note = "the mean of classes", "Of this method alone; compare to see what it harms."
        mean = fmean(of_class.mean for of_class in row.classes.values())
        differences = {n: Estimate(row.classes[n].mean - mean, None, 1) for n in found}
    order = dict(sorted(differences.items(), key=lambda item: item[1].mean))
    chart = _chart(order, row.classes, f"difference to {control}, points", f"{metric} %")
    title = metric.capitalize() if metric.islower() else metric
    return figure(f"{title} by class", chart, note)


def _chart(
    found: Mapping[str, Estimate],
    classes: Mapping[str, OfClass],
    title: str,
    of_values: str,
) -> Markup:
    left, right, bottom = 96, 440, _TOP + _STEP * len(found)
    widest = max(
        abs(f.mean) + min(f.half_width or 0.0, 3 * abs(f.mean) + 2) for f in found.values()
    )
    x = Scale(-1.05 * widest - 0.1, 1.05 * widest + 0.1, left, right)
    columns = x.ticks(6)
    axes = tag(
        "g",
        tag(
            "path", d=path_of_segments([(x(t), _TOP, x(t), bottom) for t in columns]), class_="grid"
        ),
        tag("path", d=path_of([(x(0), _TOP), (x(0), bottom)]), class_="zero"),
        level_ticks(x, columns, bottom + 16),
        words(title, 0, 12, class_="title"),
        words(of_values, 520, 12, "end", "title"),
        class_="axes",
    )
    rows = [
        _row(name, difference, classes[name].mean, x, _TOP + _STEP * (place + 0.5))
        for place, (name, difference) in enumerate(found.items())
    ]
    return drawing(axes, *rows, label=title, height=bottom + 26)


def _row(name: str, found: Estimate, accuracy: float, x: Scale, y: float) -> Markup:
    sign, half = beyond_interval(found), found.half_width or 0.0
    low, high = x.inside(found.mean - half), x.inside(found.mean + half)
    shape = {1: "triangle", -1: "wedge"}.get(sign, "circle")
    width = f" +- {half:.1f}" if half else ""
    return tag(
        "g",
        tag("title", f"{name}: {found.mean:+.1f}{width} points"),
        words(name, left_of(x), y + 4, "end", "name", most=13),
        tag("path", d=path_of([(low, y), (high, y)]), class_="interval") if half else None,
        marker(Style(None, "", shape), x(found.mean), y),
        words(f"{accuracy:.1f}", 520, y + 4, "end", "value"),
        class_=f"m { ({1: 'better', -1: 'worse'}.get(sign, 'same')) }",
    )


def left_of(x: Scale) -> float:
    """Where names end that stand left of a chart."""
    return x.start - 10
