"""A plan for a person who reads a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from data_agent_lab.comparing.forecast import TaskDuration
from data_agent_lab.methods import FULL, FULL_SHORT
from data_agent_lab.planning.advice import Advice, differences
from data_agent_lab.planning.pilot import COST, PilotResult
from data_agent_lab.planning.plan import RunPlan
from data_agent_lab.terminal import format_seconds


def in_words(plan: RunPlan, time: TaskDuration | None) -> Iterator[str]:
    """Lines: the budget, the phases, the learning rate, memory, time, and warnings."""
    config, recipe = plan.config, plan.config.recipe
    classes = f" of {plan.facts.num_classes:,} classes" if plan.facts.num_classes else ""
    trusted = f", {plan.num_trusted:,} of them trusted" if plan.num_trusted else ""
    most = "at most " if plan.is_bound else ""
    visits = f"{most}{plan.cost * plan.num_samples * recipe.epochs:,.0f} visits"
    steps = f"{most}{plan.num_steps:,} optimizer steps"
    yield (
        f"{config.method} on {plan.num_samples:,} training samples{classes}{trusted}: the cost of "
        f"{visits}, {100 * plan.cost:.1f} % of full training, in {steps}."
    )
    yield from (f"  {phase.in_words()}" for phase in plan.phases)
    yield f"Learning rate: up to {recipe.learning_rate:g}, spread over these steps."
    yield _memory(plan)
    if time is not None:
        yield _time(plan, time)
    yield from (f"Warning: {warning}" for warning in plan.warnings)


def _memory(plan: RunPlan) -> str:
    if (kept := plan.kept) is None:
        return f"{plan.config.method} starts from scores, which are made first and cost extra."
    return (
        f"The selector keeps {_size(kept.sample * plan.num_samples)} ({kept.sample:.0f} bytes a "
        f"sample) and about {_size(kept.fixed)} beside them, in memory and in every checkpoint."
    )


def _size(count: float) -> str:
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count:.0f} bytes"


def _time(plan: RunPlan, time: TaskDuration) -> str:
    own, full = plan.cost * time.full, format_seconds(time.full)
    text = (
        f"About {format_seconds(own)} of training and {format_seconds(time.evaluation)} of "
        f"evaluation here ({time.source})"
    )
    if plan.config.method == FULL:
        return f"{text}."
    less = "" if plan.config.method == FULL_SHORT else ", less what choosing takes"
    saved = format_seconds(max(0.0, time.full - own))
    return f"{text}; full training takes {full}: {saved} saved{less}."


def advice_in_words(advice: Advice, pilot: PilotResult | None) -> Iterator[str]:
    """Lines: what the pilot found, which method to take and why, and how far to trust that."""
    if pilot is not None:
        yield f"The pilot cost {100 * pilot.cost:.1f} % of full training. Above full-short:"
        for method, found in differences(pilot.values).items():
            width = "" if found.half_width is None else f" +- {found.half_width:.2f}"
            yield f"  {method} {found.mean:+.2f}{width} ({found.count} seeds)"
    if advice.method is None:
        yield (
            f"Advice: cannot tell: {advice.reason}. full-short is the simplest that costs as much."
        )
    else:
        yield f"Advice: {advice.method}: {advice.reason}."
    if pilot is None:
        yield (
            f"--pilot trains the methods in short, for about {100 * COST:.0f} % of full training."
        )
