"""What a comparison says in plain sentences: what selecting cost and gave, and whether to do it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from data_agent_lab.methods import FULL_SHORT
from data_agent_lab.results.findings import CONTROLS, RANDOM, Cell, Row
from data_agent_lab.results.statistics import FEWEST_SEEDS, Estimate

SEEDS_OF_A_CLAIM = 5
OURS = "data-agent"
_SAME_COST = 0.005  # of full training

Answer = Literal["pays", "no gain", "harms", "not known"]


@dataclass(frozen=True, slots=True)
class Conclusion:
    """What a cell of a report comes to; each text is one or two sentences."""

    method: str  # the selection that it is about
    answer: Answer
    found: str  # what it reached, at what cost
    advice: str
    claim: str  # how far to trust it

    def in_words(self) -> str:
        """All of it, one sentence after another."""
        return f"{self.found} {self.advice} {self.claim}"


def conclude(cell: Cell) -> Conclusion | None:
    """The conclusion about the agent, or where it did not run about the best selection.

    None where only controls ran.
    """
    others = [row for row in cell.rows if row.method not in CONTROLS]
    row = cell.row(OURS) or (others[0] if others else None)
    if row is None:
        return None
    rivals = [r for r in (cell.row(FULL_SHORT), cell.row(RANDOM)) if r is not None]
    answer = _answer(row, cell.metric.sign)
    return Conclusion(
        row.method, answer, _found(row, cell), _advice(answer, rivals, cell), _claim(row)
    )


def at_same_cost(row: Row) -> list[Estimate]:
    """The differences to the controls that cost the same."""
    return [found for found in (row.to_full_short, row.to_random) if found is not None]


def _answer(row: Row, sign: int) -> Answer:
    """Whether it is better than every control of the same cost, beyond the seeds' intervals."""
    found = at_same_cost(row)
    if not found or any(d.count < FEWEST_SEEDS or d.half_width is None for d in found):
        return "not known"
    if all(sign * d.mean > (d.half_width or 0.0) for d in found):
        return "pays"
    if any(sign * d.mean < -(d.half_width or 0.0) for d in found):
        return "harms"
    return "no gain"


def _advice(answer: Answer, rivals: Sequence[Row], cell: Cell) -> str:
    if answer == "pays":
        return "Selecting pays here."
    if not rivals:
        return (
            "Whether selecting pays is not known: nothing at the same cost was trained beside it. "
            "Compare with full-short and random."
        )
    best = max(rivals, key=lambda row: cell.metric.sign * row.value.mean).method
    if answer == "harms":
        return f"Selecting does not pay here: use {best}, which ends better at the same cost."
    if answer == "no gain":
        return f"Selecting does not pay here: use {best}, which is simpler and no worse."
    return "Whether selecting pays is not known from so few seeds."


def _found(row: Row, cell: Cell) -> str:
    metric, digits = cell.metric, max(1, cell.metric.digits - 1)
    is_exact = abs(row.cost - cell.keep_ratio) < _SAME_COST
    budget = f"{100 * row.cost:.3g} % of the {'visits' if is_exact else 'cost of full training'}"
    value = f"{metric.name} {row.value.mean:.{digits}f} {metric.unit}".rstrip()
    lower = " (lower is better)" if metric.sign < 0 else ""
    differences = (
        (row.to_full, "full training"),
        (row.to_full_short, "full data for the same steps"),
        (row.to_random, "random data for the same steps"),
    )
    unit = "points" if metric.unit == "%" else metric.unit
    parts = [
        _difference(found, control, unit=unit, digits=digits)
        for found, control in differences
        if found is not None
    ]
    distances = f": {_listed(parts)}" if parts else ""
    time = "" if row.time is None else f", in {row.time.mean:.2f} of the time"
    return f"At {budget}, {row.method} ends at {value}{lower}{distances}{time}."


def _difference(found: Estimate, control: str, *, unit: str, digits: int) -> str:
    side = "above" if found.mean >= 0 else "below"
    width = "" if found.half_width is None else f" +- {found.half_width:.{digits}f}"
    return f"{abs(found.mean):.{digits}f}{width} {unit} {side} {control}".replace("  ", " ")


def _claim(row: Row) -> str:
    counts = [found.count for found in at_same_cost(row)] or [row.value.count]
    count = min(counts)
    if count == 1:
        return "One seed: no claim."
    if count < FEWEST_SEEDS:
        return f"{count} seeds: no claim."
    if count < SEEDS_OF_A_CLAIM:
        return f"{count} seeds: a first sign; {SEEDS_OF_A_CLAIM} are a claim."
    return f"{count} seeds: a claim."


def _listed(parts: Sequence[str]) -> str:
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last
