"""One finished run, as its folder or a line of an archive tells it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_agent.errors import InputError
from data_agent_lab.methods import FULL
from data_agent_lab.runs.result import Metric, metric_of

_NEEDED = {
    "configuration": ("task", "model", "epochs", "method", "seed", "keep_ratio"),
    "result": (
        *("metric", "unit", "value", "cost", "train_seconds", "overhead_seconds"),
        *("num_train_samples", "num_eval_samples", "evaluation"),
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """A finished run in plain dictionaries, so that old ones stay readable.

    Raises:
        InputError: something that every run has is missing; the message names it.
    """

    path: Path  # its folder, or where that was relative to its archive
    configuration: Mapping[str, Any]  # flat
    environment: Sequence[Mapping[str, Any]]  # of each session
    result: Mapping[str, Any]
    evaluations: Sequence[Mapping[str, Any]]  # the lines of metrics that hold one, in order
    relabelled: str | None = None  # why its method has another name than when it ran

    def __post_init__(self) -> None:
        for part, names in _NEEDED.items():
            missing = [name for name in names if name not in getattr(self, part)]
            if missing:
                raise InputError(
                    f"the {part} of the run {self.path} has no {', '.join(missing)}. Runs of "
                    "data-agent have it: restore the file from a copy, or leave the run out."
                )

    @property
    def method(self) -> str:
        """Its method."""
        return self.configuration["method"]

    @property
    def seed(self) -> int:
        """Its seed."""
        return self.configuration["seed"]

    @property
    def keep_ratio(self) -> float:
        """Its budget, in (0, 1]."""
        return self.configuration["keep_ratio"]

    @property
    def value(self) -> float:
        """The metric of the last epoch, in its unit."""
        return self.result["value"]

    @property
    def metric(self) -> Metric:
        """What the value is."""
        return metric_of(self.result)

    @property
    def other_metrics(self) -> Mapping[str, Mapping[str, Any]]:
        """The other metrics of the trained model, by name, as they stand in its result."""
        return self.result.get("further_metrics", {})

    @property
    def has_own_cost(self) -> bool:
        """Whether its cost does not follow the keep ratio, so that it stands beside every one."""
        return self.method == FULL or self.result.get("schedule") == "floating"


def value_of(line: Mapping[str, Any]) -> float | None:
    """The metric in a line of metrics; old image runs call it accuracy. None without one."""
    return line.get("value", line.get("accuracy"))


def other_metric(name: str, entry: Mapping[str, Any]) -> Metric:
    """What an entry of `Record.other_metrics` measures."""
    return Metric(name, entry["unit"], entry["direction"])
