"""An audit: what is worth a look in the data of a run, ranked, and what it is written to."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from data_agent.errors import InputError
from data_agent.runtime.files import write_json
from data_agent_lab.auditing.duplicates import Group, near_duplicates
from data_agent_lab.auditing.findings import (
    Confusion,
    Finding,
    Found,
    Kind,
    confusions,
    likely_wrong,
    never_learned,
    redundant,
)
from data_agent_lab.auditing.inputs import Sketches, data_of_run, read_features, sketches_of
from data_agent_lab.auditing.numbers import SampleNumbers, read_numbers
from data_agent_lab.rules import check_list, unknown
from data_agent_lab.runs.folder import RunFolder
from data_agent_lab.runs.samples import IN_DATA, SAMPLES, read_columns, write_columns

KINDS: tuple[Kind, ...] = get_args(Kind)
DATALAB = "datalab.npz"
_KEPT = ("kept.parquet", "kept.csv")
_COLUMNS = tuple(field.name for field in fields(Finding))


@dataclass(frozen=True, kw_only=True, slots=True)
class Audit:
    """What an audit found; plain values but for the numbers, for pages and files to draw from."""

    numbers: SampleNumbers
    found: Mapping[Kind, Found]
    confusions: Sequence[Confusion]
    groups: Sequence[Group]  # of near-duplicates, positions in `numbers`
    sketches: Sketches | None  # from which they were found; None if nobody looked for them
    seconds: float  # that finding near-duplicates took
    data: Any = None  # what the run was trained on, to look at; None where it is not there

    @property
    def findings(self) -> list[Finding]:
        """Those of all kinds, within the budget: by kind, the first to look at first."""
        return [finding for found in self.found.values() for finding in found.findings]

    @property
    def not_sought(self) -> list[str]:
        """A sentence for each kind that nobody looked for."""
        return [found.not_sought for found in self.found.values() if found.not_sought]

    def of_kind(self, kind: Kind) -> Sequence[Finding]:
        """The findings of a kind, ranked, within the budget."""
        return self.found[kind].findings

    def as_dict(self) -> dict[str, Any]:
        """As written to `audit.json`."""
        return {
            "num_samples": len(self.numbers),
            "class_names": list(self.numbers.class_names),
            "num_redundant": sum(len(group.members) - 1 for group in self.groups),
            "num_groups": len(self.groups),
            "found": {k: None if f.not_sought else len(f.ranked) for k, f in self.found.items()},
            "duplicates_seconds": self.seconds,
            "findings": [asdict(finding) for finding in self.findings],
            "confusions": [asdict(confusion) for confusion in self.confusions],
        }


def audit_of(
    source: Path, *, budget: int, duplicates: bool = True, features: Path | None = None
) -> Audit:
    """Audit a finished run, or numbers of samples in a file.

    Args:
        source: a run's folder, or a Parquet or CSV file with the columns of `Selector.table()`.
        budget: findings of each kind at most, 1 or more.
        duplicates: whether to look for near-duplicates, for which a run's data are loaded.
        features: a NumPy file, float `[N, D]`, to find them from; None makes sketches of the data.

    Raises:
        InputError: the numbers, the features or the data cannot be read or do not fit together.
    """
    numbers = read_numbers(source)
    start = time.perf_counter()
    sketches, data = None if features is None else read_features(features), None
    if source.is_dir():
        _check_positions(source)
        config, is_needed = RunFolder(source).config(), duplicates and features is None
        data = data_of_run(config, numbers, is_needed=is_needed)
        sketches = sketches_of(config, data) if is_needed else sketches
    return make_audit(numbers, budget=budget, sketches=sketches, start=start, data=data)


def _check_positions(folder: Path) -> None:
    """A run on a part of its data must say where in all of them its samples are."""
    if RunFolder(folder).config().get("keep_index") is None:
        return
    columns, _ = read_columns(folder / SAMPLES)
    if IN_DATA not in columns:
        raise InputError(
            f"{folder} was trained with --keep-index by an earlier version, which did not note "
            "where in the data its samples are. Train it again."
        )


def make_audit(
    numbers: SampleNumbers,
    *,
    budget: int,
    sketches: Sketches | None,
    start: float | None = None,
    data: Any = None,
) -> Audit:
    """Audit numbers of samples; `sketches` and `data` have a row for each, in their order.

    Raises:
        InputError: it has not.
    """
    start = time.perf_counter() if start is None else start
    groups: list[Group] | None = None
    if sketches is not None:
        if len(sketches.values) != len(numbers):
            raise InputError(
                f"{len(sketches.values)} rows of features or data came for the numbers of "
                f"{len(numbers)} samples; expected as many, in the same order."
            )
        groups = near_duplicates(*sketches)
    seconds = time.perf_counter() - start
    return Audit(
        numbers=numbers,
        found={
            "wrong-label": likely_wrong(numbers, budget, groups or ()),
            "never-learned": never_learned(numbers, budget),
            "redundant": redundant(numbers, budget, groups),
        },
        confusions=confusions(numbers),
        groups=groups or (),
        sketches=sketches,
        seconds=seconds,
        data=data,
    )


def parse_kinds(text: str) -> list[Kind]:
    """Kinds of findings by name, separated by commas; `InputError` for one that there is not."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in KINDS:
            raise unknown("--drop: kind", name, KINDS)
    check_list("--drop", names)
    return [kind for kind in KINDS if kind in names]


def kept_index(audit: Audit, kinds: Sequence[Kind]) -> NDArray[np.int64]:
    """Positions in the data set of all samples but the findings of these kinds, ascending.

    Trusted samples stay: a run has them whether they are kept or not.

    Raises:
        InputError: near-duplicates are to be left out, and were not looked for.
    """
    if "redundant" in kinds and audit.sketches is None:
        raise InputError(
            "--drop redundant leaves out near-duplicates, which were not looked for. Audit a run "
            "without --no-duplicates, or pass --features."
        )
    numbers = audit.numbers
    dropped = [finding.index for finding in audit.findings if finding.kind in kinds]
    is_left_out = np.isin(numbers.index, dropped)
    if numbers.trusted is not None:
        is_left_out &= ~numbers.trusted
    return np.sort(numbers.index[~is_left_out])


def write_audit(audit: Audit, folder: Path, *, drop: Sequence[Kind] = ()) -> list[str]:
    """Write findings as JSON, Parquet and CSV and, if kinds are dropped, the index that is kept.

    What an earlier audit left in the folder and this one does not write is removed.

    Returns:
        The names of the files.

    Raises:
        DataAgentError: the folder cannot be written to.
    """
    kept = kept_index(audit, drop)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in (*_KEPT, DATALAB):
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise InputError(
            f"{folder} cannot be written ({error.strerror}). Choose another --output."
        ) from error
    write_json(folder / "audit.json", audit.as_dict())
    columns = {
        name: np.array([getattr(finding, name) for finding in audit.findings]) for name in _COLUMNS
    }
    write_columns(folder / "findings.parquet", columns)
    if drop:
        write_columns(folder / _KEPT[0], {"index": kept})
    return ["audit.json", "findings.parquet", "findings.csv", *(_KEPT if drop else ())]
