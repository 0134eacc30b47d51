"""The figure of a comparison: what each method reaches, and what it costs."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from data_agent.lab.files import replacing
from data_agent.lab.report import Comparison, Row


def draw(comparison: Comparison, path: Path) -> None:
    """Write a PNG: a column for each method with its seeds, their mean and its 95 % interval.

    Methods stand side by side with their cost below: those of one comparison mostly cost the same,
    so that on an axis of cost they would cover each other.
    """
    rows = comparison.rows
    figure = Figure(figsize=(1.5 + 1.4 * len(rows), 4.5), layout="constrained")
    FigureCanvasAgg(figure)  # no display and no global state of pyplot
    axes = figure.subplots()
    for place, row in enumerate(rows):
        colour = f"C{place}"
        seeds = list(row.by_seed.values())
        axes.plot([place - 0.15] * len(seeds), seeds, "o", color=colour, alpha=0.4, ms=4)
        axes.errorbar(
            place, row.value.mean, yerr=row.value.half_width, fmt="o", capsize=5, color=colour
        )
    axes.set_xticks(range(len(rows)), [_label(row) for row in rows])
    axes.set_xlim(-0.6, len(rows) - 0.4)
    axes.set_ylabel("accuracy of the last epoch, %")
    axes.set_title(f"{comparison.config['task']}, seeds: {comparison.config['seeds']}")
    axes.grid(axis="y", alpha=0.3)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")


def _label(row: Row) -> str:
    time = "" if row.wall_clock is None else f"\ntime {100 * row.wall_clock.mean:.0f} %"
    return f"{row.method}\ncost {100 * row.cost:.0f} %{time}"
