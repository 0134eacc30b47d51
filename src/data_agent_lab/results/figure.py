"""The figures of a report: the metric against cost, and the methods of a budget side by side."""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from data_agent.runtime.files import replacing
from data_agent_lab.methods import FULL
from data_agent_lab.results.findings import CONTROLS, Cell, Report, Row, Task
from data_agent_lab.results.records import Metric

FIGURES = "figures"
_ASIDE = 1.5  # percent of full training
_MARKERS = "osD^v<>PXp"
_GREYS = {"full": "0.0", "full-short": "0.35", "random": "0.6"}  # controls stay in the background


def draw(report: Report, folder: Path) -> None:
    """Write a PNG for each task, and one for each of its budgets; the folder is made if needed."""
    folder.mkdir(exist_ok=True)
    for task in report.tasks:
        _save(_draw_frontier(task), folder / frontier_figure(task))
        for cell in task.cells:
            _save(_draw_cell(cell), folder / comparison_figure(cell))


def frontier_figure(task: Task) -> str:
    """File name of a task's figure of its metric against cost."""
    return f"{_plain(task.name)}-frontier.png"


def comparison_figure(cell: Cell) -> str:
    """File name of the figure of the methods on a task at a budget."""
    return f"{_plain(cell.task)}-keep{cell.keep_ratio}.png"


def _plain(name: str) -> str:
    """The name without what file systems and links dislike."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-")


def _draw_frontier(task: Task) -> Figure:
    """A curve for each method over its budgets; full training is a band across.

    Most methods of a budget cost the same, so each is drawn a little beside its cost.
    """
    rows = [row for cell in task.cells for row in cell.rows]
    methods = list(dict.fromkeys(row.method for row in rows))
    metric = task.cells[0].metric
    in_tokens = all(row.token_cost is not None for row in rows)
    figure, axes = _new_figure(width=9.0, height=max(4.5, 0.8 + 0.24 * len(methods)))
    for place, method in enumerate(methods):
        mine = sorted((row for row in rows if row.method == method), key=_cost)
        colour, marker = _style(method, methods)
        if method == FULL:
            _draw_band(axes, mine[0], colour)
            continue
        aside = _ASIDE * (2 * place / (len(methods) - 1) - 1) if len(methods) > 2 else 0.0
        axes.errorbar(
            [_cost(row) + aside for row in mine],
            [row.value.mean for row in mine],
            yerr=[row.value.half_width or 0.0 for row in mine],
            color=colour,
            marker=marker,
            markersize=5,
            linewidth=1.2,
            capsize=2,
            elinewidth=0.7,
            label=method,
        )
    axes.set_ylim(*_limits(rows, metric))
    unit = "cost in tokens" if in_tokens else "cost"
    axes.set_xlabel(f"{unit}, % of full training (methods side by side, up to {_ASIDE} off)")
    axes.set_ylabel(_axis(metric))
    axes.set_title(f"{task.name}, {_seeds(rows)}")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", frameon=False, fontsize="small")
    return figure


def _draw_band(axes: Axes, row: Row, colour: str) -> None:
    mean, half = row.value.mean, row.value.half_width or 0.0
    axes.axhline(mean, color=colour, linewidth=1.2, label=row.method)
    axes.axhspan(mean - half, mean + half, color=colour, alpha=0.12, linewidth=0)


def _draw_cell(cell: Cell) -> Figure:
    """A line for each method: its seeds, their mean and its 95 % interval."""
    rows = cell.rows
    methods = [row.method for row in rows]
    figure, axes = _new_figure(width=8.0, height=1.4 + 0.3 * len(rows))
    for place, row in enumerate(rows):
        colour, marker = _style(row.method, methods)
        seeds = list(row.by_seed.values())
        axes.plot(seeds, [place] * len(seeds), "|", color=colour, alpha=0.6, markersize=9)
        axes.errorbar(
            row.value.mean,
            place,
            xerr=row.value.half_width,
            color=colour,
            marker=marker,
            markersize=6,
            capsize=4,
        )
    axes.set_yticks(range(len(rows)), [_label(row) for row in rows], fontsize="small")
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(*_limits(rows, cell.metric))
    axes.set_xlabel(_axis(cell.metric))
    axes.set_title(f"{cell.task}, keep ratio {cell.keep_ratio}, {_seeds(rows)}")
    axes.grid(alpha=0.3)
    return figure


def _axis(metric: Metric) -> str:
    unit = f", {metric.unit}" if metric.unit else ""
    better = "" if metric.direction == "higher" else " (lower is better)"
    return f"{metric.name} of the last epoch{unit}{better}"


def _limits(rows: list[Row], metric: Metric) -> tuple[float, float]:
    """An axis that shows every seed, and no more of a wide interval than leaves room for them."""
    values = [value for row in rows for value in row.by_seed.values()]
    least, most = min(values), max(values)
    margin = max(50 * 10**-metric.digits, 0.25 * (most - least))
    ends = [(row.value.mean, row.value.half_width or 0.0) for row in rows]
    low = min(mean - half for mean, half in ends)
    high = max(mean + half for mean, half in ends)
    pad = 0.1 * margin
    return max(min(least, low) - pad, least - margin), min(max(most, high) + pad, most + margin)


def _label(row: Row) -> str:
    unit = "cost" if row.token_cost is None else "tokens"
    return f"{row.method}  ({unit} {_cost(row):.0f} %)"


def _cost(row: Row) -> float:
    """In % of full training; of sequences in tokens, as long ones cost more."""
    return 100 * (row.cost if row.token_cost is None else row.token_cost)


def _style(method: str, methods: list[str]) -> tuple[str, str]:
    """Colour and marker; 18 colours and 10 markers tell any two of 25 methods apart."""
    if method in _GREYS:
        return _GREYS[method], "*"
    place = sorted(set(methods) - set(CONTROLS)).index(method)
    colours = mpl.colormaps["tab20"].colors  # pyright: ignore[reportAttributeAccessIssue]
    # Neighbours in the palette are dark and light of one hue: take the dark ones first, no greys.
    order = [*range(0, 14, 2), *range(16, 20, 2), *range(1, 14, 2), *range(17, 20, 2)]
    return to_hex(colours[order[place % len(order)]]), _MARKERS[place % len(_MARKERS)]


def _seeds(rows: list[Row]) -> str:
    counts = {row.value.count for row in rows}
    if counts == {1}:
        return "1 seed"
    least, most = min(counts), max(counts)
    return f"{most} seeds" if least == most else f"{least} to {most} seeds"


def _new_figure(*, width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)  # no display and no global state of pyplot
    return figure, figure.subplots()


def _save(figure: Figure, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")
