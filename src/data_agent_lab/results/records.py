"""Finished runs, as their folders or the lines of an archive tell them.

An archive, runs.jsonl, holds the finished runs of a folder in one file, a line a run:

{"format": ..., "version": ..., "name": "cifar10/random-seed0", "configuration": {...},
 "environment": [...], "result": {...}, "evaluations": [...], "relabelled": "..."}

Lines are sorted by name, which is the run's path below the folder. Of the metrics those lines are
kept that hold an evaluation. `relabelled` is there where a method was given another name later.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_agent.errors import InputError
from data_agent.runtime.files import parse_json, read_text, write_text
from data_agent_lab.methods import FULL
from data_agent_lab.runs.folder import FORMAT, VERSION, RunFolder

ARCHIVE = "runs.jsonl"
_PARTS = {"configuration": dict, "environment": list, "result": dict, "evaluations": list}
_NEEDED = {
    "configuration": ("task", "model", "epochs", "method", "seed", "keep_ratio"),
    "result": (
        *("metric", "unit", "value", "cost", "train_seconds", "overhead_seconds"),
        *("num_train_samples", "num_eval_samples", "evaluation"),
    ),
}
_NUMBERS = {
    "configuration": ("epochs", "seed", "keep_ratio"),
    "result": (
        *("value", "cost", "train_seconds", "overhead_seconds"),
        *("num_train_samples", "num_eval_samples"),
    ),
}
_LEAST = {"epochs": 1, "num_train_samples": 1, "num_eval_samples": 1}


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """A finished run in plain dictionaries, so that old ones stay readable.

    Raises:
        InputError: something that every run has is missing or no number; the message names it.
    """

    path: Path  # its folder, or where that was relative to its archive
    configuration: dict[str, Any]  # flat
    environment: list[dict[str, Any]]  # of each session
    result: dict[str, Any]
    evaluations: list[dict[str, Any]]  # the lines of metrics that hold one, in order
    relabelled: str | None = None  # why its method has another name than when it ran

    def __post_init__(self) -> None:
        for part, names in _NEEDED.items():
            if missing := [name for name in names if name not in getattr(self, part)]:
                raise InputError(
                    f"the {part} of the run {self.path} has no {', '.join(missing)}. Runs of "
                    "data-agent have it: restore the file from a copy, or leave the run out."
                )
            for name in _NUMBERS[part]:
                value, least = getattr(self, part)[name], _LEAST.get(name, -math.inf)
                is_number = isinstance(value, int | float) and not isinstance(value, bool)
                if not is_number or not math.isfinite(value) or value < least:
                    raise InputError(
                        f"{name} in the {part} of the run {self.path} is {value!r}; expected a "
                        "finite number. Restore the file from a copy, or leave the run out."
                    )

    @property
    def budget(self) -> tuple[str, int, float]:
        """Method, seed and keep ratio."""
        config = self.configuration
        return config["method"], config["seed"], config["keep_ratio"]

    @property
    def has_own_cost(self) -> bool:
        """Whether its cost does not follow the keep ratio, so that it stands beside every one."""
        return self.configuration["method"] == FULL or self.result.get("schedule") == "floating"

    @property
    def measured(self) -> dict[str, Mapping[str, Any]]:
        """What the trained model was measured by: runs are compared by "", further ones by name."""
        return {"": self.result, **self.result.get("further_metrics", {})}


def value_of(line: Mapping[str, Any]) -> float | None:
    """The metric in a line of metrics; old image runs call it accuracy. None without one."""
    return line.get("value", line.get("accuracy"))


def find_runs(source: Path) -> tuple[list[Record], list[Path]]:
    """The finished runs and the paths of the unfinished ones, both sorted by path.

    Args:
        source: an archive, or a folder: run folders and archives in it count, however deep. A run
            that is there as a folder and in an archive is one run.

    Raises:
        InputError: a damaged file, or two different results for one path.
    """
    if source.is_file():
        return _sorted(_read(source)), []
    folders = [RunFolder(path.parent) for path in sorted(source.rglob("config.json"))]
    runs = [folder for folder in folders if folder.is_run()]
    found = {run.path: _of_folder(run) for run in runs if run.is_finished()}
    for archive in sorted(source.rglob(ARCHIVE)):
        for record in _read(archive):
            if found.setdefault(record.path, record).result != record.result:
                raise InputError(
                    f"{archive} holds another result for {record.path} than its folder or another "
                    "archive. Keep one of them there."
                )
    return _sorted(found.values()), sorted(run.path for run in runs if not run.is_finished())


def _of_folder(run: RunFolder) -> Record:
    return Record(
        path=run.path,
        configuration=run.config(),
        environment=run.sessions(),
        result=run.result(),
        evaluations=[line for line in run.metrics() if value_of(line) is not None],
    )


def _sorted(records: Iterable[Record]) -> list[Record]:
    return sorted(records, key=lambda record: record.path.parts)


def write_archive(folder: Path, output: Path | None = None) -> str:
    """Write all finished runs under a folder, those of archives there included, into one file.

    It is runs.jsonl in the folder, or `output`. Metrics that are NaN or infinite are left out.
    Returns in words what was written and left out.

    Raises:
        InputError: no finished run, a damaged file, or an output with runs that would be lost.
    """
    output = output or folder / ARCHIVE
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; expected one with runs of data-agent.")
    found, unfinished = find_runs(folder)
    records = {record.path.relative_to(folder).as_posix(): record for record in found}
    if not records:
        raise InputError(f"no run under {folder} has finished; there is nothing to archive.")
    there = _read(output) if output.exists() else []
    lost = {record.path.relative_to(output.parent).as_posix() for record in there} - records.keys()
    if lost:
        raise InputError(
            f"{output} holds {len(lost)} run(s) that are not under {folder}, {min(lost)} among "
            "them, and would lose them. Choose another --output."
        )
    write_text(output, "".join(_line(name, record) for name, record in records.items()))
    said = f"Wrote {len(records)} run(s) to {output}. Their folders are not needed for reports."
    if unfinished:
        left_out = ", ".join(str(path.relative_to(folder)) for path in unfinished)
        said += f" Not finished, so left out: {left_out}."
    return said


def _line(name: str, record: Record) -> str:
    head = {"format": FORMAT, "version": VERSION, "name": name}
    parts = {part: getattr(record, part) for part in _PARTS}
    lines = map(_finite, record.evaluations)
    parts["evaluations"] = [line for line in lines if value_of(line) is not None]
    tail = {} if record.relabelled is None else {"relabelled": record.relabelled}
    return json.dumps({**head, **parts, **tail}, allow_nan=False) + "\n"


def _finite(line: Mapping[str, Any]) -> dict[str, Any]:
    """A line of metrics without numbers that JSON does not have."""
    return {
        name: _finite(value) if isinstance(value, Mapping) else value
        for name, value in line.items()
        if not isinstance(value, float) or math.isfinite(value)
    }


def _read(path: Path) -> list[Record]:
    records: list[Record] = []
    try:
        for number, text in enumerate(read_text(path).splitlines(), start=1):
            records.append(_record(path, number, parse_json(text)))
    except InputError:
        raise
    except (ValueError, OSError) as error:
        raise InputError(
            f"{path} is damaged after {len(records)} run(s) ({error}). Restore it from a copy, or "
            "write it again: data-agent archive DIR"
        ) from error
    return records


def _record(path: Path, number: int, line: Any) -> Record:
    if not isinstance(line, dict) or (line.get("format"), line.get("version")) != (FORMAT, VERSION):
        raise InputError(
            f"line {number} of {path} is no run of this data-agent; expected a file that "
            "data-agent archive wrote."
        )
    kinds = {"name": str, **_PARTS}
    if wrong := [name for name, kind in kinds.items() if not isinstance(line.get(name), kind)]:
        raise ValueError(f"line {number} has no {', '.join(wrong)}")
    parts = {part: line[part] for part in _PARTS}
    return Record(path=path.parent / line["name"], relabelled=line.get("relabelled"), **parts)
