"""What is worth a look, from the numbers of every sample: pure functions.

Labels are ranked by `suspicion`: the ranks of mean loss, mean margin and last loss together, as no
one of them told wrong labels from right ones best everywhere (docs/audit.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_agent_lab.auditing.duplicates import Group
from data_agent_lab.auditing.numbers import SampleNumbers

Kind = Literal["wrong-label", "never-learned", "redundant"]
FEWEST_VISITS = 3  # before a sample counts as never learned


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """A sample to look at.

    `rank` is 0 for the first of its kind; `score` is what it is ranked by, in the kind's unit.
    """

    kind: Kind
    rank: int
    index: int
    score: float
    reason: str
    label: str | None = None
    suggested: str | None = None
    same_as: int | None = None  # of a redundant sample the one that stays
    row: int | None = None  # of the user's data, where that is known
    file: str | None = None  # an image's

    @property
    def origin(self) -> str:
        """The image file, or else the row of the data; empty where neither is known."""
        return self.file or ("" if self.row is None else f"row {self.row}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Confusion:
    """How many samples of a class the model took for another one, on average over training."""

    label: str
    believed: str
    count: int
    share: float  # of the label's samples


class Found(NamedTuple):
    """What was found of a kind."""

    findings: Sequence[Finding]  # as many as the budget allows
    ranked: NDArray[np.int64]  # positions of all that were found, the first to look at first
    not_sought: str = ""  # a sentence that says so, if nobody looked for any


def _not_sought(sentence: str) -> Found:
    return Found([], np.empty(0, np.int64), sentence)


def likely_wrong(numbers: SampleNumbers, budget: int, groups: Sequence[Group] = ()) -> Found:
    """The labels most likely wrong: the most suspicious, another class being believed.

    Args:
        numbers: of all samples; without labels there are no findings.
        budget: how many at most, 1 or more.
        groups: of near-duplicates, positions in `numbers`; a copy with another label is a reason.
    """
    label, suggested, margin = numbers.label, numbers.suggested_label, numbers.margin
    if label is None or (label < 0).all():
        return _not_sought("Wrong labels were not looked for: samples have no class.")
    if suggested is None or margin is None:
        return _not_sought(
            "Wrong labels were not looked for: that takes the columns margin and suggested_label."
        )
    is_candidate = (label >= 0) & (suggested >= 0) & (suggested != label)
    is_candidate &= ~np.isnan(numbers.mean_loss)
    doubt = numbers.suspicion()
    order = _highest(doubt, is_candidate)
    other_copy = _copies_with_another_label(label, groups)
    typical = _medians(numbers.mean_loss, label)
    findings = [
        Finding(
            kind="wrong-label",
            rank=rank,
            index=int(numbers.index[at]),
            **numbers.origin(at),
            score=float(doubt[at]),
            reason=(
                f"{numbers.name_of(int(suggested[at]))} was believed instead (margin "
                f"{margin[at]:+.2f}), at a mean loss of {numbers.mean_loss[at]:.2f} where "
                f"{typical[int(label[at])]:.2f} is typical"
                + _in_words(other_copy.get(int(at)), numbers)
            ),
            label=numbers.name_of(int(label[at])),
            suggested=numbers.name_of(int(suggested[at])),
        )
        for rank, at in enumerate(order[:budget])
    ]
    return Found(findings, numbers.index[order])


def never_learned(numbers: SampleNumbers, budget: int) -> Found:
    """Samples whose last visit still cost more than guessing does (log C), the dearest first.

    Of samples with a class, after `FEWEST_VISITS` visits where these are known; `budget` is how
    many at most.
    """
    label, loss, visits = numbers.label, numbers.loss, numbers.visits
    if label is None or (label < 0).all():
        return _not_sought("What was never learned was not looked for: samples have no class.")
    if loss is None:
        return _not_sought("What was never learned was not looked for: that takes the column loss.")
    if numbers.num_classes < 2:
        return _not_sought("What was never learned was not looked for: there is one class only.")
    guessing = math.log(numbers.num_classes)
    is_one = (label >= 0) & (np.nan_to_num(loss, nan=-1.0) > guessing)
    if visits is not None:
        is_one &= visits >= FEWEST_VISITS
    order = _highest(loss, is_one)
    findings = [
        Finding(
            kind="never-learned",
            rank=rank,
            index=int(numbers.index[at]),
            **numbers.origin(at),
            score=float(loss[at]),
            reason=(
                f"the last {'visit' if visits is None else f'of {visits[at]} visits'} cost "
                f"{loss[at]:.2f}, and guessing among {numbers.num_classes} classes costs "
                f"{guessing:.2f}"
            ),
            label=numbers.name_of(int(label[at])),
        )
        for rank, at in enumerate(order[:budget])
    ]
    return Found(findings, numbers.index[order])


def redundant(numbers: SampleNumbers, budget: int, groups: Sequence[Group] | None) -> Found:
    """Near-duplicates beyond one of each group, those of the largest groups first.

    A sample that all others of its group are alike to stays: a trusted one if there is one, else
    the one with the lowest mean loss.

    Args:
        numbers: of all samples.
        budget: how many at most.
        groups: positions in `numbers`; None if nobody looked for any.
    """
    if groups is None:
        return _not_sought("Near-duplicates were not looked for.")
    pairs: list[tuple[int, int, int]] = []  # what goes, what stays, the size of their group
    loss = np.nan_to_num(numbers.mean_loss, nan=math.inf)
    if numbers.trusted is not None:
        loss[numbers.trusted] = -math.inf
    for group in sorted(groups, key=lambda group: len(group.members), reverse=True):
        stays = group.centres[loss[group.centres].argmin()]
        others = group.members[group.members != stays]
        others = others[np.argsort(loss[others], kind="stable")]
        pairs += [(int(at), int(stays), len(group.members)) for at in others]
    label, index = numbers.label, numbers.index
    findings = [
        Finding(
            kind="redundant",
            rank=rank,
            index=int(index[at]),
            **numbers.origin(at),
            score=float(size),
            reason=f"one of {size} near-duplicates",
            label=None if label is None else numbers.name_of(int(label[at])),
            same_as=int(index[stays]),
        )
        for rank, (at, stays, size) in enumerate(pairs[:budget])
    ]
    return Found(findings, index[[at for at, _, _ in pairs]] if pairs else index[:0])


def confusions(numbers: SampleNumbers) -> list[Confusion]:
    """Pairs of classes by how many samples of the first were taken for the second, most first."""
    label, suggested = numbers.label, numbers.suggested_label
    if label is None or suggested is None:
        return []
    is_taken = (label >= 0) & (suggested >= 0) & (label != suggested)
    pairs, counts = np.unique(
        np.stack([label[is_taken], suggested[is_taken]], 1), axis=0, return_counts=True
    )
    sizes = np.bincount(label[label >= 0])
    found = [
        Confusion(
            label=numbers.name_of(int(own)),
            believed=numbers.name_of(int(other)),
            count=int(count),
            share=float(count / sizes[own]),
        )
        for (own, other), count in zip(pairs, counts, strict=True)
    ]
    return sorted(found, key=lambda pair: -pair.count)


def _highest(values: NDArray[np.floating], among: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Positions where `among` holds, those of the highest values first."""
    rows = np.flatnonzero(among)
    return rows[np.argsort(-values[rows], kind="stable")]


def _medians(values: NDArray[np.floating], label: NDArray[np.int64]) -> dict[int, float]:
    """The median of each class."""
    return {int(c): float(np.nanmedian(values[label == c])) for c in np.unique(label[label >= 0])}


def _copies_with_another_label(label: NDArray[np.int64], groups: Sequence[Group]) -> dict[int, int]:
    """By position the commonest label of its group, where that is another one than its own."""
    found: dict[int, int] = {}
    for group, _ in groups:
        names, counts = np.unique(label[group], return_counts=True)
        most = int(names[counts.argmax()])
        found |= {int(at): most for at in group if label[at] != most}
    return found


def _in_words(copy_label: int | None, numbers: SampleNumbers) -> str:
    return "" if copy_label is None else f"; near-duplicates are {numbers.name_of(copy_label)}"
