"""The figures of a report: the metric against cost, and the methods of a budget side by side."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from data_agent.runtime.files import replacing
from data_agent_lab.methods import FULL, FULL_SHORT, RANDOM
from data_agent_lab.results.findings import CONTROLS, Cell, Report, Row, Task
from data_agent_lab.results.tables import figure_of
from data_agent_lab.runs.result import Metric

_COLOURS, _MARKERS = "012345689", "osD^v<>PXp"  # C7 is grey; the pairs tell 90 methods apart
_GREYS = {FULL: "0.0", FULL_SHORT: "0.35", RANDOM: "0.6"}


def draw(report: Report, folder: Path) -> None:
    """Write a PNG for each task, and one for each of its budgets; the folder is made if needed."""
    folder.mkdir(exist_ok=True)
    for task in report.tasks:
        _save(_draw_frontier(task), folder / figure_of(task.name))
        for cell in task.cells:
            _save(_draw_cell(cell), folder / figure_of(task.name, cell.keep_ratio))


def _draw_frontier(task: Task) -> Figure:
    """A curve for each method over its budgets, every point at its cost; full training a band."""
    rows = [row for cell in task.cells for row in cell.rows]
    methods = list(dict.fromkeys(row.method for row in rows))
    figure, axes = _new_figure(width=9.0, height=max(4.5, 0.8 + 0.24 * len(methods)))
    for method in methods:
        points = sorted((row for row in rows if row.method == method), key=_cost)
        colour, marker = _style(method, methods)
        if method == FULL:
            mean, half = points[0].value.mean, points[0].value.half_width or 0.0
            axes.axhline(mean, color=colour, linewidth=1.2, label=method)
            axes.axhspan(mean - half, mean + half, color=colour, alpha=0.12, linewidth=0)
            continue
        axes.errorbar(
            [_cost(row) for row in points],
            [row.value.mean for row in points],
            yerr=[row.value.half_width or 0.0 for row in points],
            color=colour,
            marker=marker,
            markersize=6,
            markerfacecolor="none",  # most methods of a budget cost the same: all are seen
            linewidth=1.2,
            capsize=2,
            elinewidth=0.5,
            label=method,
        )
    metric = task.cells[0].metric
    axes.set_ylim(*_limits(rows, metric))
    in_tokens = all(row.token_cost is not None for row in rows)
    axes.set_xlabel(f"cost{' in tokens' if in_tokens else ''}, % of full training")
    axes.set_ylabel(_axis(metric))
    axes.set_title(f"{task.name}, {_seeds(rows)}")
    figure.legend(loc="outside right upper", frameon=False, fontsize="small")
    return figure


def _draw_cell(cell: Cell) -> Figure:
    """A line for each method: its seeds, their mean and its 95 % interval."""
    rows = cell.rows
    figure, axes = _new_figure(width=8.0, height=1.4 + 0.3 * len(rows))
    for place, row in enumerate(rows):
        colour, marker = _style(row.method, [row.method for row in rows])
        seeds = list(row.by_seed.values())
        axes.plot(seeds, [place] * len(seeds), "|", color=colour, alpha=0.6, markersize=9)
        mean, half = row.value.mean, row.value.half_width
        axes.errorbar(mean, place, xerr=half, color=colour, marker=marker, markersize=6, capsize=4)
    units = ["cost" if row.token_cost is None else "tokens" for row in rows]
    names = [f"{r.method}  ({u} {_cost(r):.0f} %)" for r, u in zip(rows, units, strict=True)]
    axes.set_yticks(range(len(rows)), names, fontsize="small")
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(*_limits(rows, cell.metric))
    axes.set_xlabel(_axis(cell.metric))
    axes.set_title(f"{cell.task}, keep ratio {cell.keep_ratio}, {_seeds(rows)}")
    return figure


def _axis(metric: Metric) -> str:
    unit = f", {metric.unit}" if metric.unit else ""
    return f"{metric.name} of the last epoch{unit}" + " (lower is better)" * (metric.sign < 0)


def _limits(rows: list[Row], metric: Metric) -> tuple[float, float]:
    """An axis that shows every seed, and no more of a wide interval than leaves room for them."""
    values = [value for row in rows for value in row.by_seed.values()]
    least, most = min(values), max(values)
    margin = max(50 * 10**-metric.digits, 0.25 * (most - least))
    low = min(least, *(row.value.mean - (row.value.half_width or 0.0) for row in rows))
    high = max(most, *(row.value.mean + (row.value.half_width or 0.0) for row in rows))
    pad = 0.1 * margin
    return max(low - pad, least - margin), min(high + pad, most + margin)


def _cost(row: Row) -> float:
    """In % of full training; of sequences in tokens, as long ones cost more."""
    return 100 * (row.cost if row.token_cost is None else row.token_cost)


def _style(method: str, methods: list[str]) -> tuple[str, str]:
    """Colour and marker; controls stay in the background."""
    if method in _GREYS:
        return _GREYS[method], "*"
    place = sorted(set(methods) - set(CONTROLS)).index(method)
    return f"C{_COLOURS[place % len(_COLOURS)]}", _MARKERS[place % len(_MARKERS)]


def _seeds(rows: list[Row]) -> str:
    counts = [row.value.count for row in rows]
    least, most = min(counts), max(counts)
    count = str(most) if least == most else f"{least} to {most}"
    return f"{count} seed{'s' if most > 1 else ''}"


def _new_figure(*, width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")  # no state of pyplot
    axes = figure.subplots()
    axes.grid(alpha=0.3)
    return figure, axes


def _save(figure: Figure, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")
