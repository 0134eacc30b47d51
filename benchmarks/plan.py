"""How good the advice of `data-agent plan` is, task by task, each left out of what it was made of.

    python benchmarks/plan.py --data-root data            # from stored runs; a minute, to load data
    python benchmarks/plan.py --data-root data --pilots   # with real pilots as well, resumable

For each task with classes in benchmarks/results the best of full-short, random, label-aware and the
policy (where it ran) is known, at keep ratio 0.5 and five seeds. The advice is judged by how many
points the method that it names ends below the best; "cannot tell" is counted apart.

Two kinds of pilots: the first evaluation of the stored runs of two seeds, when their learning rate
is still high; and what `data-agent plan --pilot` trains. The two thresholds of the advice are, for
each task, those that are best on all others. Written to benchmarks/results/plan.json.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from data_agent.runtime.files import write_json
from data_agent_lab.planning.advice import Facts, Pilot, Thresholds, advise, differences
from data_agent_lab.planning.facts import facts_of
from data_agent_lab.planning.pilot import run_pilot
from data_agent_lab.recipes import RunConfig
from data_agent_lab.results.records import Record, find_runs, value_of
from data_agent_lab.runs.environment import describe_environment
from data_agent_lab.tasks import load_task, suite_recipes

RESULTS = Path(__file__).parent / "results"
SUITES = ("core", "held-out", "language", "agent-before")
METHODS = ("full-short", "random", "label-aware", "data-agent")
PILOT_SEEDS = (0, 1)
NEAR = 0.5  # points
GRID = (0.1, 0.15, 0.2, 0.25, 0.3, 0.4)  # chance makes classes of equal odds unequal by up to 0.06
NEVER = 2.0  # a threshold that no share reaches


class Judged:
    """A task: where its methods ended, and what could be known before."""

    def __init__(self, task: str, records: Sequence[Record]) -> None:
        self.task = task
        self.runs = {
            method: {r.configuration["seed"]: r for r in records if _method(r) == method}
            for method in METHODS
        }
        self.runs = {method: runs for method, runs in self.runs.items() if runs}
        self.ends = {
            method: fmean(r.result["value"] for r in runs.values())
            for method, runs in self.runs.items()
        }

    def regret(self, method: str) -> float:
        """Points below the best."""
        return max(self.ends.values()) - self.ends[method]

    def early(self) -> Pilot:
        """What two seeds of each method had reached at their first evaluation."""
        return {
            method: {seed: value_of(runs[seed].evaluations[0]) or 0.0 for seed in PILOT_SEEDS}
            for method, runs in self.runs.items()
        }

    def doubted(self) -> float:
        """The share of labels doubted at that time."""
        own = self.runs["label-aware"]
        found = [own[seed].evaluations[0]["selector"] for seed in PILOT_SEEDS]
        return fmean(line.get("suspected_share", 0.0) for line in found)


def _method(record: Record) -> str | None:
    config = record.configuration
    return config["method"] if config["keep_ratio"] == 0.5 else None


def stored() -> dict[str, Judged]:
    """All tasks with classes that the stored runs can judge, by name."""
    found: dict[str, list[Record]] = {}
    for suite in SUITES:
        for record in find_runs(RESULTS / suite / "runs.jsonl")[0]:
            if record.result["metric"] == "accuracy":
                found.setdefault(record.configuration["task"], []).append(record)
    judged = {task: Judged(task, records) for task, records in sorted(found.items())}
    return {task: own for task, own in judged.items() if "label-aware" in own.runs}


def told(judged: Judged, facts: Facts, pilot: Pilot, thresholds: Thresholds) -> dict[str, Any]:
    """The advice on a task, and how good it was."""
    advice = advise(facts, pilot, thresholds)
    regret = None if advice.method is None else judged.regret(advice.method)
    return {"method": advice.method, "reason": advice.reason, "regret": regret}


def best_thresholds(known: Sequence[tuple[Judged, Facts]]) -> Thresholds:
    """Those of least regret on tasks; untold ones count as full-short, the simplest control.

    Of equally good ones the middle ones. A pilot's values are left out: it overrules the facts
    only where it is clear, which has no setting.
    """
    choices = (*GRID, NEVER)
    found: dict[tuple[float, float], float] = {}
    for skew in choices:
        for doubted in choices:
            thresholds = Thresholds(skew=skew, doubted=doubted)
            methods = [advise(facts, {}, thresholds).method for _, facts in known]
            regrets = [
                own.regret(method or "full-short")
                for (own, _), method in zip(known, methods, strict=True)
            ]
            found[skew, doubted] = sum(regrets)
    least = min(found.values())
    good = [pair for pair, regret in found.items() if regret < least + 1e-9]
    skews, doubts = (sorted({pair[n] for pair in good}) for n in (0, 1))
    return Thresholds(skew=skews[len(skews) // 2], doubted=doubts[len(doubts) // 2])


def leave_one_out(
    tasks: Mapping[str, Judged], facts: Mapping[str, Facts], pilots: Mapping[str, Pilot]
) -> dict[str, Any]:
    """The advice on each task, with thresholds from all others."""
    rows: dict[str, Any] = {}
    for task in facts:
        others = [(tasks[other], facts[other]) for other in facts if other != task]
        thresholds = best_thresholds(others)
        rows[task] = {
            **told(tasks[task], facts[task], pilots[task], thresholds),
            "skew_threshold": thresholds.skew,
            "doubted_threshold": thresholds.doubted,
            "skew": facts[task].skew,
            "doubted": facts[task].doubted,
            "pilot_above_full_short": {
                method: [found.mean, found.half_width]
                for method, found in differences(pilots[task]).items()
            },
            "pilot_best_regret": _regret_of_pilot(tasks[task], pilots[task]),
        }
    regrets = [row["regret"] for row in rows.values() if row["regret"] is not None]
    return {
        "tasks": rows,
        "told": len(regrets),
        "told_within_half_a_point": sum(regret <= NEAR for regret in regrets),
        "not_told": len(rows) - len(regrets),
        "with_full_short_where_not_told": sum(
            tasks[task].regret(row["method"] or "full-short") <= NEAR for task, row in rows.items()
        ),
        "pilot_alone": sum(row["pilot_best_regret"] <= NEAR for row in rows.values()),
        "always": {
            method: sum(tasks[task].regret(method) <= NEAR for task in rows)
            for method in ("full-short", "random", "label-aware")
        },
    }


def _regret_of_pilot(judged: Judged, pilot: Pilot) -> float:
    """What following the pilot's best mean alone would have cost."""
    means = {method: fmean(by_seed.values()) for method, by_seed in pilot.items()}
    return judged.regret(max(means, key=lambda method: means[method]))


def show(name: str, found: Mapping[str, Any]) -> None:
    """Print a table."""
    print(f"{name}\n{'task':24} {'advice':12} regret  skew  doubted  pilot's best regret  reason")
    for task, row in found["tasks"].items():
        regret = "     -" if row["regret"] is None else f"{row['regret']:6.2f}"
        doubted = "      -" if row["doubted"] is None else f"{row['doubted']:7.2f}"
        print(
            f"{task:24} {row['method'] or 'cannot tell':12} {regret}  {row['skew']:.2f}  {doubted}"
            f"  {row['pilot_best_regret']:19.2f}  {row['reason']}"
        )
    print({key: value for key, value in found.items() if key != "tasks"}, end="\n\n")


def main() -> None:
    """Judge, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--pilots", action="store_true", help="train pilots that are not there yet")
    parser.add_argument("--output", type=Path, default=RESULTS / "plan.json")
    options = parser.parse_args()
    content: dict[str, Any] = {"skew": {}, "pilots": {}}
    if options.output.exists():
        content = json.loads(options.output.read_text())
    content["environment"] = describe_environment("cpu")
    tasks = stored()
    for task in tasks:
        is_there = task in content["skew"] and (task in content["pilots"] or not options.pilots)
        if is_there:
            continue
        recipe: Any = suite_recipes(None, tasks=[task], root=options.data_root)[0]
        data = load_task(recipe)
        content["skew"][task] = facts_of(data).skew
        if options.pilots and task not in content["pilots"]:
            start = time.process_time()
            recipe = replace(recipe, num_threads=1, device="cpu")
            found = run_pilot(RunConfig(recipe=recipe), data)
            content["pilots"][task] = {
                "values": found.values,
                "doubted": found.doubted,
                "cost": found.cost,
                "cpu_seconds": time.process_time() - start,
            }
            print(task, content["pilots"][task], flush=True)
        write_json(options.output, content)
    num_classes = {t: next(iter(own.runs["random"].values())) for t, own in tasks.items()}
    classes = {t: record.result["num_classes"] for t, record in num_classes.items()}
    skew = content["skew"]
    early = {
        t: Facts(num_classes=classes[t], skew=skew[t], doubted=own.doubted())
        for t, own in tasks.items()
    }
    content["early"] = leave_one_out(tasks, early, {t: own.early() for t, own in tasks.items()})
    show("Pilots: the first evaluation of stored runs", content["early"])
    if content["pilots"]:
        known = {
            t: Facts(num_classes=classes[t], skew=skew[t], doubted=p["doubted"])
            for t, p in content["pilots"].items()
        }
        values = {t: _as_pilot(p["values"], tasks[t]) for t, p in content["pilots"].items()}
        content["real"] = leave_one_out(tasks, known, values)
        show("Pilots of their own", content["real"])
    best = best_thresholds([(own, early[t]) for t, own in tasks.items()])
    content["thresholds"] = {"skew": best.skew, "doubted": best.doubted}
    print("best thresholds on all:", content["thresholds"], f"of {np.array(GRID)}")
    write_json(options.output, content)


def _as_pilot(values: Mapping[str, Mapping[str, float]], judged: Judged) -> Pilot:
    """As it came from JSON; methods whose end is not known cannot be judged."""
    return {
        method: {int(seed): value for seed, value in by_seed.items()}
        for method, by_seed in values.items()
        if method in judged.ends
    }


if __name__ == "__main__":
    main()
