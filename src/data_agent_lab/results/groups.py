"""The runs of a report, grouped by their recipes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_agent.errors import InputError
from data_agent_lab.configurations import with_defaults
from data_agent_lab.results.records import Record, find_runs

_OF_A_RUN = ("method", "seed", "keep_ratio")


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """The finished runs of one recipe."""

    name: str  # its task, with what tells it from other recipes of that task in the report
    config: dict[str, Any]  # all that its runs have in common
    records: Sequence[Record]

    def keep_ratios(self) -> list[float]:
        """The budgets there are, the largest first."""
        bound = [record for record in self.records if not record.has_own_cost]
        return sorted({r.configuration["keep_ratio"] for r in bound or self.records}, reverse=True)

    def at(self, keep_ratio: float) -> dict[str, dict[int, Record]]:
        """The runs to compare at a budget, by method and seed; of each there may be one."""
        found: dict[str, dict[int, Record]] = {}
        for record in self.records:
            method, seed, ratio = record.budget
            if ratio != keep_ratio and not record.has_own_cost:
                continue
            by_seed = found.setdefault(method, {})
            other = by_seed.get(seed)
            if other is not None and other.budget == record.budget:
                raise InputError(
                    f"{other.path} and {record.path} are runs of one configuration. Report on a "
                    "folder that holds one of them."
                )
            if other is None or ratio == keep_ratio:
                by_seed[seed] = record
        return found


def read_groups(source: Path) -> tuple[list[Group], list[Path]]:
    """The recipes with finished runs in a folder or an archive, by name, and unfinished runs.

    Raises:
        InputError: nothing there, no finished run, or a damaged file; the message names it.
    """
    if not source.exists():
        raise InputError(f"{source} is neither a folder nor a file; expected one with runs.")
    found, unfinished = find_runs(source)
    if not found:
        raise InputError(
            f"no run under {source} has finished; there is nothing to report. "
            f"{len(unfinished)} unfinished run(s) were found."
        )
    return group_runs(found), unfinished


def group_runs(found: Sequence[Record]) -> list[Group]:
    """The recipes of finished runs, wherever these come from, by name."""
    recipes: dict[str, tuple[dict[str, Any], list[Record]]] = {}
    for record in found:
        config = _recipe(record.configuration)
        settings = {name: value for name, value in config.items() if value is not None}
        key = json.dumps(settings, sort_keys=True)
        recipes.setdefault(key, (config, []))[1].append(record)
    configs = [config for config, _ in recipes.values()]
    groups = [
        Group(name=_name(config, configs), config=config, records=records)
        for config, records in recipes.values()
    ]
    return sorted(groups, key=lambda group: group.name)


def _recipe(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """What runs of one recipe have in common, with the settings that old runs do not name."""
    config = with_defaults(configuration)
    return {name: value for name, value in config.items() if name not in _OF_A_RUN}


def _name(config: Mapping[str, Any], configs: Sequence[Mapping[str, Any]]) -> str:
    """A recipe's task; several of one task are told apart by the settings that differ."""
    same = [other for other in configs if other["task"] == config["task"]]
    differing = [
        f"{name.replace('_', ' ')} {value}"
        for name, value in config.items()
        if any(other.get(name) != value for other in same)
    ]
    return config["task"] + (f" ({', '.join(differing)})" if differing else "")
