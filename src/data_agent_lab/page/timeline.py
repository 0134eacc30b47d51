"""What a selection did over time, from the lines of metrics that its runs wrote."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from data_agent_lab.page.charts import Line, line_chart
from data_agent_lab.page.curves import Runs
from data_agent_lab.page.drawing import drawing, figure, words
from data_agent_lab.page.markup import Markup, tag
from data_agent_lab.page.styles import NUM_COLOURS, SHAPES, Style, short
from data_agent_lab.results.records import Record
from data_agent_lab.runs.folder import RunFolder

_COLUMNS = 24  # of the picture of classes
_EQUAL = 3  # the shade of equal shares

Metrics = Sequence[Mapping[str, Any]]  # the lines of one run
Read = Callable[[Mapping[str, Any]], float | None]


@dataclass(frozen=True, slots=True)
class _Chart:
    title: str
    note: str
    names: Mapping[str, str]  # by name of a metric, or its beginning that ends in /, what is shown


_CHARTS = (
    _Chart(
        "Weights of the reward",
        "How much each signal counts in what the policy is rewarded for.",
        {"reward_weight/": ""},
    ),
    _Chart(
        "Actions",
        "Mean action of the samples that an epoch keeps, of the others, and of all.",
        {"kept_mean_action": "kept", "unkept_mean_action": "not kept", "mean_action": "all"},
    ),
    _Chart(
        "Price of a visit",
        "tau: what a sample must be worth, so that the budget is met.",
        {"tau": "tau"},
    ),
    _Chart(
        "Trusted rows told from others",
        "Area under the ROC curve, of rows learned from and of those held back; 0.5 is chance.",
        {"trusted_separation": "learned", "trusted_separation_held_back": "held back"},
    ),
    _Chart(
        "What holds of what trusted rows taught",
        "What log-odds are multiplied by, from rows left out: 1 is all of it, 0 a uniform draw.",
        {"trusted_calibration": "calibration"},
    ),
    _Chart(
        "Avoided samples",
        "Share of all samples that are taken less than half as often as by a uniform draw.",
        {"avoided_share": "avoided"},
    ),
    _Chart(
        "Suspected labels",
        "Share of the samples whose label is doubted.",
        {"doubtful_share": "doubtful", "suspected_share": "suspected"},
    ),
)

_HARM = {"wrong_labels": "Wrong labels trained on", "foreign": "Foreign samples trained on"}
_HARM_NOTE = "Share of an epoch's samples, %. The report knows which these are; no method does."


def metrics_of(record: Record) -> Metrics:
    """All lines of metrics of a run's folder, or those that an archive kept of it."""
    folder = RunFolder(record.path)
    return folder.metrics() if record.path.is_dir() else record.evaluations


def charts_of_selector(metrics: Sequence[Metrics], *, num_points: int) -> list[Markup]:
    """A chart for each thing that the selector tells of itself; `metrics` are of its seeds."""
    names = dict.fromkeys(
        name for lines in metrics for line in lines for name in line.get("selector", {})
    )
    drawn: list[Markup] = []
    for chart in _CHARTS:
        shown = _shown(chart, names)
        lines = [
            Line(name=title, style=_style(number), points=points)
            for number, (name, title) in enumerate(shown.items())
            if (points := _mean_line(metrics, _reader("selector", name), num_points))
        ]
        if lines:
            drawn.append(_over_epochs(chart.title, chart.note, lines))
    return drawn


def charts_of_harm(
    metrics: Mapping[str, Sequence[Metrics]], styles: Mapping[str, Style], *, num_points: int
) -> list[Markup]:
    """By method the shares of wrong labels and of foreign samples in an epoch, if there are any."""
    charts: list[Markup] = []
    for name, title in _HARM.items():
        lines = [
            Line(name=method, style=styles[method], points=[(e, 100 * s) for e, s in points])
            for method, runs in metrics.items()
            if (points := _mean_line(runs, _reader("visited", name), num_points))
        ]
        if lines:
            charts.append(_over_epochs(title, _HARM_NOTE, lines))
    return charts


def _over_epochs(title: str, note: str, lines: Sequence[Line]) -> Markup:
    chart = line_chart(lines, x_title="epoch", y_title="", label=f"{title} over epochs")
    return figure(title, chart, note)


def _shown(chart: _Chart, names: Iterable[str]) -> dict[str, str]:
    """Of the metrics that there are those of a chart, with what they are called in it."""
    found: dict[str, str] = {}
    for name in names:
        prefix = f"{name.partition('/')[0]}/"
        if name in chart.names:
            found[name] = chart.names[name]
        elif prefix in chart.names:
            found[name] = name.removeprefix(prefix)
    return found


def _style(number: int) -> Style:
    return Style(None, f"c{number % NUM_COLOURS}", SHAPES[number % len(SHAPES)])


def _reader(part: str, name: str) -> Read:
    return lambda line: line.get(part, {}).get(name)


def _mean_line(runs: Sequence[Metrics], read: Read, num_points: int) -> list[tuple[float, float]]:
    """Means over runs by epoch, where all have a finite number, at so many epochs at most."""
    by_epoch: dict[float, list[float]] = {}
    for lines in runs:
        for line in lines:
            value = read(line)
            if value is not None and math.isfinite(value) and "epoch" in line:
                by_epoch.setdefault(line["epoch"] + 1, []).append(value)
    most = max(map(len, by_epoch.values()), default=0)
    points = [(e, fmean(v)) for e, v in sorted(by_epoch.items()) if len(v) == most]
    if len(points) <= num_points:
        return points
    last = len(points) - 1
    return [points[round(i * last / (num_points - 1))] for i in range(num_points)]


def picture_of_classes(runs: Sequence[Metrics], names: Sequence[str]) -> Markup | None:
    """How often each class is visited against its mean over training; None where it is not told."""
    found = [
        [line["visited"]["classes"] for line in lines if "classes" in line.get("visited", {})]
        for lines in runs
    ]
    num_epochs = min((len(epochs) for epochs in found), default=0)
    if num_epochs < 2:
        return None
    num_classes = min(len(shares) for epochs in found for shares in epochs)
    columns = [
        range(start * num_epochs // count, (start + 1) * num_epochs // count)
        for count in [min(_COLUMNS, num_epochs)]
        for start in range(count)
    ]
    shares = [
        [fmean([epochs[e][c] for epochs in found for e in column]) for column in columns]
        for c in range(num_classes)
    ]
    # Names are of the classes that were evaluated: where one was not, which is which is not known.
    shown = names if len(names) == num_classes else [str(c) for c in range(num_classes)]
    chart = _heat(shares, shown, num_epochs)
    note = "Share of an epoch's samples by label, against equal shares: blue less, orange more."
    return figure("Classes trained on", chart, note)


def _heat(shares: Sequence[Sequence[float]], names: Sequence[str], num_epochs: int) -> Markup:
    """Rows of classes over epochs; a shade is a path, which keeps the file small."""
    left, top, height = 84, 8, 264 / len(shares)
    width = (520 - left - 6) / len(shares[0])
    equal = 1 / len(shares)
    cells: dict[int, list[str]] = {}
    for row, values in enumerate(shares):
        for column, share in enumerate(values):
            x, y = left + column * width, top + row * height
            size = f"h{short(width + 0.3)}v{short(height - 1)}h-{short(width + 0.3)}z"
            if (level := _level(share / equal)) != _EQUAL:
                cells.setdefault(level, []).append(f"M{short(x)} {short(y)}{size}")
    ground = tag(
        "rect", x=left, y=top, width=short(514 - left), height="264", class_=f"heat h{_EQUAL}"
    )
    paths = [
        tag("path", d="".join(found), class_=f"heat h{level}")
        for level, found in sorted(cells.items())
    ]
    size = min(12.0, height)
    labels = [
        words(name, left - 8, top + (row + 0.5) * height + size / 3, "end", most=11)
        for row, name in enumerate(names[: len(shares)])
    ]
    axes = tag(
        "g",
        *labels,
        words("1", left, 290),
        words(f"{num_epochs}", 514, 290, "end"),
        words("epoch", 299, 290, "middle", "title"),
        class_="axes",
    )
    return drawing(
        ground, *paths, axes, label="share of each class among the samples of each epoch"
    )


def _level(ratio: float) -> int:
    """A shade in [0, 6] of a share against equal shares: 3 is within a tenth of them."""
    limits = (0.67, 0.8, 0.9, 1.1, 1.25, 1.5)
    return sum(ratio > limit for limit in limits)


def runs_of(records: Runs) -> dict[str, list[Metrics]]:
    """The lines of metrics by method, of each of its seeds."""
    return {
        method: [metrics_of(record) for record in by_seed.values()]
        for method, by_seed in records.items()
    }
