"""What choosing prompts saves: how early a method is as good as uniform prompts are at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from data_agent_lab.results.records import Record, value_of
from data_agent_lab.results.statistics import Estimate, estimate
from data_agent_lab.runs.result import Metric

_PRICES = ("completions", "generated_tokens", "train_seconds", "train_cpu_seconds")  # of a line
SHARES: Mapping[str, str] = {
    f"share of {name.replace('_', ' ')} until random's level": name for name in _PRICES
}
"""By title, what is paid."""
SPREADLESS = "groups without spread, as a share of random's"
_LAST = 3  # evaluations that the level is the mean of: one alone is as good as its luck


def savings(
    mine: Mapping[int, Record], control: Mapping[int, Record], metric: Metric
) -> dict[str, Estimate]:
    """Shares of what the control paid in all, at which a method reached the control's last level.

    Paired by seed; with `SPREADLESS` the groups whose rewards were all the same, in those of the
    control. The level is the mean of the control's last three evaluations. Where a run does
    not reach it, all that it paid counts: the share is then at least that. The control itself first
    reaches its last level before its end, as far as its curve is flat or rough: its own share is
    what a method's is to be seen beside. Empty where evaluations do not tell what was paid.

    Args:
        mine: the method's runs by seed.
        control: the control's.
        metric: of the lines' values.
    """
    seeds = [seed for seed in mine if seed in control]
    lines = {seed: (mine[seed].evaluations, control[seed].evaluations) for seed in seeds}
    if not seeds or any("completions" not in line for both in lines.values() for line in both[0]):
        return {}
    found = {
        title: estimate([_share(*lines[seed], name, metric.sign) for seed in seeds])
        for title, name in SHARES.items()
    }
    pairs = [[_spreadless(line[-1]) for line in lines[seed]] for seed in seeds]
    if all(of_control for _, of_control in pairs):
        found[SPREADLESS] = estimate([own / of_control for own, of_control in pairs])
    return found


def _share(
    mine: Sequence[Mapping[str, Any]], control: Sequence[Mapping[str, Any]], name: str, sign: int
) -> float:
    last = [sign * (value_of(line) or 0.0) for line in control[-_LAST:]]
    curve = [(float(line[name]), sign * (value_of(line) or 0.0)) for line in mine]
    paid = price_of(curve, sum(last) / len(last))
    return (curve[-1][0] if paid is None else paid) / float(control[-1][name])


def _spreadless(line: Mapping[str, Any]) -> float:
    return 1.0 - float(line["selector"]["informative_so_far"])


def price_of(curve: Sequence[tuple[float, float]], level: float) -> float | None:
    """Where a curve first reaches a level, on straight lines between its points; None if never.

    Args:
        curve: pairs (price, value), prices ascending.
        level: a value.
    """
    before: tuple[float, float] | None = None
    for price, value in curve:
        if value >= level:
            if before is None:
                return price
            return before[0] + (price - before[0]) * (level - before[1]) / (value - before[1])
        before = price, value
    return None
