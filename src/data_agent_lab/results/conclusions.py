"""What a comparison says in plain sentences: what selecting cost and gave, and whether to do it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from data_agent_lab.methods import FULL_SHORT
from data_agent_lab.results.findings import CONTROLS, RANDOM, Cell, Row
from data_agent_lab.results.statistics import FEWEST_SEEDS, Estimate
from data_agent_lab.runs.result import Metric

SEEDS_OF_A_CLAIM = 5
OURS = ("data-agent", "label-aware")  # of both the first is what a comparison is about
_SAME_COST = 0.01  # of full training

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


@dataclass(frozen=True, slots=True)
class _Rival:
    """A control of the budget, and the difference of the selection to it."""

    row: Row
    words: str
    difference: Estimate


def conclude(cell: Cell) -> Conclusion | None:
    """The conclusion about our method, or where none ran about the best selection.

    None where only controls ran.
    """
    others = [row for row in cell.rows if row.method not in CONTROLS]
    cheap = [row for row in others if row.cost <= cell.keep_ratio + _SAME_COST]
    ours = [found for method in OURS if (found := cell.row(method)) is not None]
    row = next(iter([*ours, *cheap, *others]), None)
    if row is None:
        return None
    rivals = _rivals(row, cell)
    answer = _answer(row, rivals, cell.metric.sign)
    return Conclusion(
        method=row.method,
        answer=answer,
        found=_found(row, rivals, cell),
        advice=_advice(answer, row, rivals, cell.metric.sign),
        claim=_claim(row, rivals, num_others=len(others)),
    )


def _rivals(row: Row, cell: Cell) -> list[_Rival]:
    """What the same steps buy without selecting, where that was trained."""
    found = (
        (cell.row(FULL_SHORT), "full data", row.to_full_short),
        (cell.row(RANDOM), "random data", row.to_random),
    )
    return [
        _Rival(rival, words, difference)
        for rival, words, difference in found
        if rival is not None and difference is not None
    ]


def _is_dearer(row: Row, rival: _Rival) -> bool:
    return row.cost > rival.row.cost + _SAME_COST


def _answer(row: Row, rivals: Sequence[_Rival], sign: int) -> Answer:
    """Whether it beats every control that cost no less, beyond the seeds' intervals."""
    found = [(sign * rival.difference.mean, rival.difference.half_width) for rival in rivals]
    is_known = all(rival.difference.count >= FEWEST_SEEDS for rival in rivals)
    if not rivals or not is_known:
        return "not known"
    if any(mean < -(half or 0.0) for mean, half in found):
        return "harms"
    if any(mean <= (half or 0.0) for mean, half in found):
        return "no gain"
    return "not known" if any(_is_dearer(row, rival) for rival in rivals) else "pays"


def _advice(answer: Answer, row: Row, rivals: Sequence[_Rival], sign: int) -> str:
    if answer == "pays":
        return "Selecting pays here."
    unknown = "Whether selecting pays is not known"
    if not rivals:
        return (
            f"{unknown}: nothing at the same cost was trained beside it. Compare with full-short "
            "and random."
        )
    best = max(rivals, key=lambda rival: sign * rival.row.value.mean).row.method
    if answer == "harms":
        return f"Selecting does not pay here: use {best}, which ends better at no more cost."
    if answer == "no gain":
        within = "the difference is within the seeds' intervals"
        return f"That selecting pays is not shown here: {within}, and {best} is simpler."
    if all(rival.difference.count >= FEWEST_SEEDS for rival in rivals):
        return f"{unknown}: nothing that costs as much as {row.method} was trained beside it."
    return f"{unknown} from so few seeds."


def _found(row: Row, rivals: Sequence[_Rival], cell: Cell) -> str:
    metric, digits = cell.metric, max(1, cell.metric.digits - 1)
    is_exact = abs(row.cost - cell.keep_ratio) < _SAME_COST
    budget = f"{100 * row.cost:.3g} % of the {'visits' if is_exact else 'cost of full training'}"
    value = f"{metric.name} {row.value.mean:.{digits}f} {metric.unit}".rstrip()
    lower = " (lower is better)" if metric.sign < 0 else ""
    to_full = [] if row.to_full is None else [_difference(row.to_full, "full training", metric)]
    parts = to_full + [
        _difference(rival.difference, f"{rival.words} {_at(row, rival)}", metric)
        for rival in rivals
    ]
    distances = f": {_listed(parts)}" if parts else ""
    time = "" if row.time is None else f", in {row.time.mean:.2f} of the time"
    return f"At {budget}, {row.method} ends at {value}{lower}{distances}{time}."


def _at(row: Row, rival: _Rival) -> str:
    if _is_dearer(row, rival):
        return f"at {100 * rival.row.cost:.3g} %"
    return "for the same steps"


def _difference(found: Estimate, control: str, metric: Metric) -> str:
    digits = max(1, metric.digits - 1)
    unit = "points" if metric.unit == "%" else metric.unit
    side = "above" if found.mean >= 0 else "below"
    width = "" if found.half_width is None else f" +- {found.half_width:.{digits}f}"
    words = f"{abs(found.mean):.{digits}f}{width} {unit} {side} {control}"
    return words.replace("  ", " ")  # a metric without a unit


def _claim(row: Row, rivals: Sequence[_Rival], *, num_others: int) -> str:
    count = min((rival.difference.count for rival in rivals), default=row.value.count)
    seeds = "One seed" if count == 1 else f"{count} seeds"
    if count < FEWEST_SEEDS:
        return f"{seeds}: no claim."
    if row.method not in OURS and num_others > 1:
        return f"{seeds}, but the best of {num_others} picked by these numbers: no claim."
    if count < SEEDS_OF_A_CLAIM:
        return f"{seeds}: a first sign; {SEEDS_OF_A_CLAIM} are a claim."
    return f"{seeds}: a claim."


def _listed(parts: Sequence[str]) -> str:
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last
