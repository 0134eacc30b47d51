"""Which method to take, from what is known of the data and from a pilot: one pure function.

A pilot alone tells little: rankings of short runs flip with the learning rate (arXiv 2512.24503),
and two seeds part methods only where they differ by points. What is known of the data tells more:
label rules pay where classes are unequal or many labels are wrong (docs/when-it-helps.md). Where
neither says anything, nor does the advice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit  # scipy.stats takes a second to import

from data_agent_lab.methods import FULL_SHORT
from data_agent_lab.results.statistics import CONFIDENCE, Estimate

LABEL_AWARE = "label-aware"
Pilot = Mapping[str, Mapping[int, float]]
"""By method and seed what a short run reached, higher being better."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What is known of the data before the run."""

    num_classes: int  # 0 where nothing is classified
    skew: float  # share of the samples beyond their class's equal share, in [0, 1)
    doubted: float | None = None  # share of the labels that a pilot doubts; None where none can be


@dataclass(frozen=True, kw_only=True, slots=True)
class Thresholds:
    """From which values on data are a reason for label rules; chosen by benchmarks/plan.py."""

    skew: float = 0.2
    doubted: float = 0.25


@dataclass(frozen=True, slots=True)
class Advice:
    """A method, or None where it cannot be told; and why, in a sentence."""

    method: str | None
    reason: str


def skew_of(counts: Sequence[int]) -> float:
    """The share of samples that lie beyond the equal share of their class, in [0, 1).

    Half of the distance between the shares of the classes and equal ones, `sum |p_c - 1/C| / 2`.
    """
    shares = np.asarray(counts, dtype=np.float64) / max(1, sum(counts))
    return float(np.abs(shares - 1 / max(1, len(shares))).sum() / 2)


def half_width(pilot: Pilot) -> float | None:
    """Half the 95 % interval of a difference between two methods of a pilot, paired by seed.

    From the scatter that methods and seeds leave unexplained, of all methods together: a pilot has
    few seeds. `t(0.975, f) * s * sqrt(2 / S)`, `s^2` the residual variance of the two-way table of
    M methods and S seeds, with `f = (M - 1)(S - 1)`. None of one seed or one method.
    """
    seeds = sorted(set.intersection(*map(set, pilot.values()))) if pilot else []
    if len(pilot) < 2 or len(seeds) < 2:
        return None
    freedom = (len(pilot) - 1) * (len(seeds) - 1)
    table = np.array([[by_seed[seed] for seed in seeds] for by_seed in pilot.values()])
    rest = table - table.mean(0) - table.mean(1, keepdims=True) + table.mean()
    scatter = math.sqrt(float((rest**2).sum()) / freedom)
    return float(stdtrit(freedom, (1 + CONFIDENCE) / 2)) * scatter * math.sqrt(2 / len(seeds))


def differences(pilot: Pilot) -> dict[str, Estimate]:
    """By other method what it is above `full-short` in the pilot; empty without that control."""
    if FULL_SHORT not in pilot:
        return {}
    width, control = half_width(pilot), pilot[FULL_SHORT]
    found: dict[str, Estimate] = {}
    for method, by_seed in pilot.items():
        common = by_seed.keys() & control.keys()
        if method != FULL_SHORT and common:
            mean = sum(by_seed[seed] - control[seed] for seed in common) / len(common)
            found[method] = Estimate(mean, width, len(common))
    return found


def advise(facts: Facts, pilot: Pilot, thresholds: Thresholds | None = None) -> Advice:
    """Which method to take at the run's budget.

    Args:
        facts: what is known of the data.
        pilot: what short runs of methods reached, `full-short` among them; may be empty.
        thresholds: None takes the defaults.
    """
    above = differences(pilot)
    harmed = above.get(LABEL_AWARE)
    is_harmful = harmed is not None and _is_beyond(harmed) and harmed.mean < 0
    if (reason := _reason_for_rules(facts, thresholds or Thresholds())) is not None:
        if is_harmful:
            return Advice(None, f"{reason}, but label-aware was worse in the pilot")
        return Advice(LABEL_AWARE, reason)
    clear = {m: found for m, found in above.items() if _is_beyond(found) and found.mean > 0}
    if clear:
        best = max(clear, key=lambda method: clear[method].mean)
        rivals = [found.mean for method, found in above.items() if method != best]
        width = clear[best].half_width or 0.0
        if all(clear[best].mean - rival > width for rival in rivals):
            return Advice(best, f"it was {clear[best].mean:.1f} above full-short in the pilot")
    if above and all(_is_beyond(found) and found.mean < 0 for found in above.values()):
        return Advice(FULL_SHORT, "whatever selects was worse than it in the pilot")
    return Advice(None, _why_not_told(facts, above))


def _reason_for_rules(facts: Facts, thresholds: Thresholds) -> str | None:
    if facts.num_classes and facts.skew >= thresholds.skew:
        return f"{facts.skew:.0%} of the samples are beyond the equal share of their class"
    if facts.doubted is not None and facts.doubted >= thresholds.doubted:
        return f"about {facts.doubted:.0%} of the labels look wrong"
    return None


def _is_beyond(found: Estimate) -> bool:
    return found.half_width is not None and abs(found.mean) > found.half_width


def _why_not_told(facts: Facts, above: Mapping[str, Estimate]) -> str:
    data = "nothing known of the data speaks for a method"
    if facts.num_classes:
        data = "classes are about equal"
        if facts.doubted is not None:
            data += f" and few labels look wrong ({facts.doubted:.0%})"
    if not above:
        return data
    if all(found.half_width is None for found in above.values()):
        return f"{data}, and one seed has no interval"
    return f"{data}, and the pilot's intervals overlap"
