"""Reading what runs wrote: every run under a folder, grouped by what they have in common."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from data_agent.errors import InputError
from data_agent_lab.methods import FULL
from data_agent_lab.recipes import ImageRecipe, TextRecipe
from data_agent_lab.runs.folder import RunFolder

_OF_A_RUN = ("method", "seed", "keep_ratio")
_DIGITS = {"%": 2, "nats": 4}


@dataclass(frozen=True, slots=True)
class Metric:
    """What is measured.

    Args:
        name: accuracy, loss, ...
        unit: %, nats, or empty.
        direction: whether higher or lower values are better.

    Raises:
        InputError: another direction.
    """

    name: str
    unit: str
    direction: Literal["higher", "lower"]

    def __post_init__(self) -> None:
        if self.direction not in ("higher", "lower"):
            raise InputError(
                f"the direction of {self.name!r} is {self.direction!r}; a result.json says which "
                "values are better: higher or lower."
            )

    @property
    def sign(self) -> int:
        """1 where higher is better, else -1: `sign * value` is to be maximised."""
        return 1 if self.direction == "higher" else -1

    @property
    def digits(self) -> int:
        """Decimals to show."""
        return _DIGITS.get(self.unit, 3)

    def in_words(self) -> str:
        """Name and unit."""
        return f"{self.name} {self.unit}".strip()


def reached_in_words(result: Mapping[str, Any]) -> str:
    """What a run reached, from its result."""
    metric = _metric_of(result)
    return f"{metric.name} {result['value']:.{metric.digits}f} {metric.unit}".strip()


def _metric_of(result: Mapping[str, Any]) -> Metric:
    """What a run's value is; image runs do not say that higher is better."""
    return Metric(result["metric"], result["unit"], result.get("direction", "higher"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """What else a trained model was measured by.

    Args:
        metric: what it is.
        value: in its unit.
        num_items: how many items were evaluated; None where that is not told.
        num_cut: how many of them did not fit into the model's context whole.
    """

    metric: Metric
    value: float
    num_items: int | None
    num_cut: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """A finished run.

    Args:
        path: its folder.
        method: its method.
        seed: its seed.
        keep_ratio: its budget, in (0, 1].
        result: what it wrote as its result.
        evaluations: its lines of metrics that hold an evaluation, in order; its metric is `value`.
        sessions: the environments it ran in.
    """

    path: Path
    method: str
    seed: int
    keep_ratio: float
    result: Mapping[str, Any]
    evaluations: Sequence[Mapping[str, Any]]
    sessions: Sequence[Mapping[str, Any]]

    @property
    def value(self) -> float:
        """The metric of the last epoch, in its unit."""
        return self.result["value"]

    @property
    def metric(self) -> Metric:
        """What the value is."""
        return _metric_of(self.result)

    @property
    def further(self) -> dict[str, Measurement]:
        """What else the trained model was measured by, by name."""
        return {
            name: Measurement(
                metric=Metric(name, entry["unit"], entry["direction"]),
                value=entry["value"],
                num_items=entry.get("num_items"),
                num_cut=entry.get("num_truncated", 0),
            )
            for name, entry in self.result.get("further_metrics", {}).items()
        }

    @property
    def is_shared(self) -> bool:
        """Whether its cost is its own, so that it stands beside every keep ratio."""
        return self.method == FULL or self.result.get("schedule") == "floating"


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """The runs of one recipe.

    Args:
        name: its task, with what tells it from other recipes of that task in the folder.
        config: all that its runs have in common.
        records: the finished ones.
    """

    name: str
    config: Mapping[str, Any]
    records: Sequence[Record]

    def keep_ratios(self) -> list[float]:
        """The budgets there are, the largest first."""
        ratios = {record.keep_ratio for record in self.records if not record.is_shared}
        return sorted(ratios or {record.keep_ratio for record in self.records}, reverse=True)

    def at(self, keep_ratio: float) -> dict[str, dict[int, Record]]:
        """The runs to compare at a budget, by method and seed.

        Raises:
            InputError: two runs are of one method, budget and seed.
        """
        found: dict[str, dict[int, Record]] = {}
        for record in self.records:
            if record.keep_ratio != keep_ratio and not record.is_shared:
                continue
            by_seed = found.setdefault(record.method, {})
            other = by_seed.setdefault(record.seed, record)
            if other is record:
                continue
            if other.keep_ratio == record.keep_ratio:
                raise InputError(
                    f"{other.path} and {record.path} are runs of one configuration. Report on a "
                    "folder that holds one of them."
                )
            if record.keep_ratio == keep_ratio:
                by_seed[record.seed] = record
        return found


def read_groups(folder: Path) -> tuple[list[Group], list[Path]]:
    """All runs under a folder, however deep.

    Returns:
        The recipes with finished runs, in the order of their tasks' names, and the folders of
        unfinished runs.

    Raises:
        InputError: no finished run, or a damaged file; the message names it.
    """
    by_recipe: dict[str, list[Record]] = {}
    configs: dict[str, dict[str, Any]] = {}
    unfinished: list[Path] = []
    for path in sorted(path.parent for path in folder.rglob("config.json")):
        run = RunFolder(path)
        if not run.is_run():
            continue
        if not run.is_finished():
            unfinished.append(path)
            continue
        config = _completed(run.config())
        shared = {name: value for name, value in config.items() if name not in _OF_A_RUN}
        key = json.dumps(shared, sort_keys=True)
        configs[key] = shared
        by_recipe.setdefault(key, []).append(_record(run, config))
    if not by_recipe:
        raise InputError(
            f"no run under {folder} has finished; there is nothing to report. "
            f"{len(unfinished)} unfinished run(s) were found."
        )
    names = _names(configs)
    groups = [
        Group(name=names[key], config=configs[key], records=records)
        for key, records in by_recipe.items()
    ]
    return sorted(groups, key=lambda group: group.name), unfinished


def _completed(config: Mapping[str, Any]) -> dict[str, Any]:
    """With the defaults of what could not be set yet when an older version wrote it."""
    setup = TextRecipe if "kind" in config else ImageRecipe
    defaults = {f.name: f.default for f in fields(setup) if f.default is not MISSING}
    return {**defaults, **config}


def _record(run: RunFolder, config: Mapping[str, Any]) -> Record:
    return Record(
        path=run.path,
        method=config["method"],
        seed=config["seed"],
        keep_ratio=config["keep_ratio"],
        result=run.result(),
        evaluations=_evaluations(run),
        sessions=run.sessions(),
    )


def _evaluations(run: RunFolder) -> list[dict[str, Any]]:
    """Lines with an evaluation; those of image runs hold an accuracy and no other value."""
    lines = [{"value": line.get("accuracy"), **line} for line in run.metrics()]
    return [line for line in lines if line["value"] is not None]


def _names(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Each recipe's task; several of one task are told apart by the fields that differ."""
    names: dict[str, str] = {}
    for key, config in configs.items():
        same = [other for other in configs.values() if other["task"] == config["task"]]
        differing = [
            f"{field.replace('_', ' ')} {config[field]}"
            for field in config
            if any(other.get(field) != config[field] for other in same)
        ]
        names[key] = config["task"] + (f" ({', '.join(differing)})" if differing else "")
    return names
