"""What runs were at each evaluation, as lines over what they had cost by then."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import fmean
from typing import Any

from data_agent_lab.page.charts import Line
from data_agent_lab.page.styles import Style
from data_agent_lab.results.records import Record, value_of

Runs = Mapping[str, Mapping[int, Record]]  # by method and seed
Place = Callable[[Record, Mapping[str, Any]], float | None]
Axis = tuple[str, str, Place]
"""What is drawn over: its name, its title with a unit, and where a line of metrics stands."""


def over_visits(record: Record, line: Mapping[str, Any]) -> float | None:
    """What training had cost at a line of metrics, in percent of full training."""
    num_samples, epochs = record.result["num_train_samples"], record.configuration["epochs"]
    visits = line["num_forward"] + 2 * line["num_backward"]
    return 100 * visits / (3 * num_samples * epochs)


def over_time(clock: str) -> Place:
    """The seconds of training by a cell's clock, where a line of metrics has them."""
    name = "train_cpu_seconds" if clock == "processor time" else "train_seconds"
    return lambda _, line: line.get(name)


def axes_of(runs: Runs, clock: str) -> list[Axis]:
    """What training is drawn over: what the runs paid, and the seconds by a cell's clock."""
    time = ("time", f"{clock} of training, s", over_time(clock))
    every = (line for by_seed in runs.values() for r in by_seed.values() for line in r.evaluations)
    if any("completions" in line for line in every):
        tokens = ("tokens", "generated tokens", _over("generated_tokens"))
        return [("completions", "completions", _over("completions")), tokens, time]
    return [("visits", "visits, % of full training", over_visits), time]


def _over(name: str) -> Place:
    return lambda _, line: line.get(name)


def learning_curves(
    runs: Runs,
    styles: Mapping[str, Style],
    place: Place,
    *,
    has_bands: bool,
    value: Callable[[Mapping[str, Any]], float | None] = value_of,
) -> list[Line]:
    """A line for each method: means over its seeds, and with `has_bands` the range of them.

    `value` reads from a line of metrics what is drawn, by default what runs are compared by.
    """
    lines: list[Line] = []
    for method, by_seed in runs.items():
        records = list(by_seed.values())
        steps = zip(*([(r, line) for line in r.evaluations] for r in records), strict=False)
        points: list[tuple[float, float]] = []
        band: list[tuple[float, float]] = []
        for step in steps:
            places = [place(record, line) for record, line in step]
            values = [found for _, line in step if (found := value(line)) is not None]
            if None in places or not values:
                continue
            points.append((fmean([p for p in places if p is not None]), fmean(values)))
            band.append((min(values), max(values)))
        if points:
            lines.append(
                Line(
                    name=method,
                    style=styles[method],
                    points=points,
                    band=band if has_bands and len(records) > 1 else (),
                )
            )
    return lines
