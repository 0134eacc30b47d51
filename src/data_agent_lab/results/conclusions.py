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
OURS = ("data-agent", "noise-aware", "label-aware")  # the first that ran is what it is about
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
    answer = _answer(row, rivals, cell)
    return Conclusion(
        method=row.method,
        answer=answer,
        found=_found(row, rivals, cell),
        advice=_advice(answer, row, rivals, cell),
        claim=_claim(answer, row, rivals, num_others=len(others)),
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


def _costs_more(one: Row, other: Row) -> bool:
    return one.cost > other.cost + _SAME_COST


def _missing(cell: Cell) -> str | None:
    """The control that has to be beaten and was not trained; full-short is random data at 1."""
    needed = (RANDOM, FULL_SHORT) if cell.keep_ratio < 1 else (RANDOM,)
    return next((method for method in needed if cell.row(method) is None), None)


def _answer(row: Row, rivals: Sequence[_Rival], cell: Cell) -> Answer:
    """Whether it beats both controls, beyond the seeds' intervals, at no higher cost."""
    if not rivals or any(rival.difference.count < FEWEST_SEEDS for rival in rivals):
        return "not known"
    means = {id(rival): cell.metric.sign * rival.difference.mean for rival in rivals}
    lost = [r for r in rivals if means[id(r)] < -(r.difference.half_width or 0.0)]
    level = [r for r in rivals if abs(means[id(r)]) <= (r.difference.half_width or 0.0)]
    worse: tuple[tuple[list[_Rival], Answer], ...] = ((lost, "harms"), (level, "no gain"))
    for found, answer in worse:
        if found:  # at less cost than they had, it says nothing
            is_fair = any(not _costs_more(rival.row, row) for rival in found)
            return answer if is_fair else "not known"
    is_dearer = any(_costs_more(row, rival.row) for rival in rivals)
    return "not known" if is_dearer or _missing(cell) else "pays"


def _advice(answer: Answer, row: Row, rivals: Sequence[_Rival], cell: Cell) -> str:
    if answer == "pays":
        return "Selecting pays here."
    if answer == "not known":
        return f"Whether selecting pays is not known{_why_not_known(row, rivals, cell)}"
    best = _best(rivals, cell).method
    if answer == "harms":
        return f"Selecting does not pay here: use {best}, which ends better at no more cost."
    within = "the difference is within the seeds' intervals"
    return f"That selecting pays is not shown here: {within}, and {best} is simpler."


def _best(rivals: Sequence[_Rival], cell: Cell) -> Row:
    """Of the seeds that both have."""
    return min(rivals, key=lambda rival: cell.metric.sign * rival.difference.mean).row


def _why_not_known(row: Row, rivals: Sequence[_Rival], cell: Cell) -> str:
    if not rivals:
        return (
            ": nothing at the same cost was trained beside it. Compare with full-short and random."
        )
    if any(rival.difference.count < FEWEST_SEEDS for rival in rivals):
        return " from so few seeds."
    best = _best(rivals, cell)
    for is_off, amount in ((_costs_more(best, row), "little"), (_costs_more(row, best), "much")):
        if is_off:
            return f": nothing that costs as {amount} as {row.method} was trained beside it."
    return f": {_missing(cell)}, which costs the same, was not trained beside it."


def _found(row: Row, rivals: Sequence[_Rival], cell: Cell) -> str:
    metric, digits = cell.metric, max(1, cell.metric.digits - 1)
    is_exact = abs(row.cost - cell.keep_ratio) < _SAME_COST
    budget = f"{100 * row.cost:.3g} % of the {'visits' if is_exact else 'cost of full training'}"
    value = f"{metric.name} {row.value.mean:.{digits}f} {metric.unit}".rstrip()
    lower = " (lower is better)" if metric.sign < 0 else ""
    to_full = [] if row.to_full is None else [_to_full(row.to_full, row, metric)]
    parts = to_full + [
        _difference(rival.difference, f"{rival.words} {_at(row, rival)}", metric)
        for rival in rivals
    ]
    distances = f": {_listed(parts)}" if parts else ""
    spent = row.time if cell.one_machine else None
    time = "" if spent is None else f", in {spent.mean:.2f} of the time"
    return f"At {budget}, {row.method} ends at {value}{lower}{distances}{time}."


def _to_full(found: Estimate, row: Row, metric: Metric) -> str:
    """The difference, with its seeds where full training had fewer."""
    seeds = "seed" if found.count == 1 else "seeds"
    fewer = f" ({found.count} {seeds})" if found.count < row.value.count else ""
    return _difference(found, f"full training{fewer}", metric)


def _at(row: Row, rival: _Rival) -> str:
    if _costs_more(row, rival.row) or _costs_more(rival.row, row):
        return f"at {100 * rival.row.cost:.3g} %"
    return "for the same steps"


def _difference(found: Estimate, control: str, metric: Metric) -> str:
    digits = max(1, metric.digits - 1)
    unit = "points" if metric.unit == "%" else metric.unit
    side = "above" if found.mean >= 0 else "below"
    width = "" if found.half_width is None else f" +- {found.half_width:.{digits}f}"
    words = f"{abs(found.mean):.{digits}f}{width} {unit} {side} {control}"
    return words.replace("  ", " ")  # a metric without a unit


def _claim(answer: Answer, row: Row, rivals: Sequence[_Rival], *, num_others: int) -> str:
    count = min((rival.difference.count for rival in rivals), default=row.value.count)
    seeds = "One seed" if count == 1 else f"{count} seeds"
    if answer == "not known" or count < FEWEST_SEEDS:
        return f"{seeds}: no claim."
    if row.method not in OURS and num_others > 1:
        return f"{seeds}, but the best of {num_others} picked by these numbers: no claim."
    if count < SEEDS_OF_A_CLAIM:
        return f"{seeds}: a first sign; {SEEDS_OF_A_CLAIM} are a claim."
    return f"{seeds}: a claim."


def _listed(parts: Sequence[str]) -> str:
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last
