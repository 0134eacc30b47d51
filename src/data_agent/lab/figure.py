"""The figure of a comparison: what each method reaches, against what it costs."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from data_agent.lab.files import replacing
from data_agent.lab.report import Comparison


def draw(comparison: Comparison, path: Path) -> None:
    """Write a PNG: per method its seeds as dots, their mean, and its 95 % interval."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)  # no display and no global state of pyplot
    axes = figure.subplots()
    for number, row in enumerate(comparison.rows):
        colour = f"C{number}"
        cost = 100 * row.cost
        seeds = list(row.by_seed.values())
        axes.plot([cost] * len(seeds), seeds, ".", color=colour, alpha=0.4)
        axes.errorbar(
            cost,
            row.value.mean,
            yerr=row.value.half_width,
            fmt="o",
            capsize=4,
            color=colour,
            label=row.method,
        )
    axes.set_xlabel("cost, % of full training")
    axes.set_ylabel("accuracy of the last epoch, %")
    axes.set_xlim(left=0)
    axes.set_title(f"{comparison.config['task']}, {comparison.config['seeds']} seed(s)")
    axes.grid(alpha=0.3)
    axes.legend()
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")
