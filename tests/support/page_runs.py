"""Finished runs in memory, as the reader of run folders hands them on, and the page of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from run_folders import IMAGES

from data_agent_lab.page.writing import page_of
from data_agent_lab.results.findings import Report
from data_agent_lab.results.groups import Group
from data_agent_lab.results.records import Record
from data_agent_lab.results.report import report_of

N = 100
VALUES = {"full": 91.0, "full-short": 89.0, "random": 88.0, "data-agent": 92.0}


def record(
    method: str,
    seed: int,
    *,
    value: float = 90.0,
    keep_ratio: float = 0.5,
    cost: float | None = None,
    classes: Mapping[str, float] | None = None,
    num_evaluations: int = 4,
    path: Path | None = None,
    command: str = "data-agent compare",
    **config: Any,
) -> Record:
    """A run that rises to `value` in steps of one point."""
    share = cost if cost is not None else 1.0 if method == "full" else keep_ratio
    configuration = {**IMAGES, "method": method, "seed": seed, "keep_ratio": keep_ratio, **config}
    visits = share * N * configuration["epochs"]
    lines = [
        {
            "epoch": place - 1,
            "step": place,
            "num_forward": visits * place / num_evaluations,
            "num_backward": visits * place / num_evaluations,
            "train_seconds": 10.0 * share * place,
            "value": value - num_evaluations + place,
            "selector": {"tau": 0.1 * place, "kept_mean_action": 0.6} if "agent" in method else {},
            "visited": {"classes": [0.5, 0.5], "wrong_labels": 0.3 / place},
        }
        for place in range(1, num_evaluations + 1)
    ]
    result = {
        **{"metric": "accuracy", "unit": "%", "value": value, "cost": share},
        **{"train_seconds": 10.0 * share, "overhead_seconds": 0.5, "schedule": "exact"},
        **{"num_train_samples": N, "num_eval_samples": 50, "num_noisy_labels": 3},
        **{"evaluation": "split 'test'", "class_accuracy": classes},
    }
    session = {"command": command, "cpu": "a processor", "torch": "2", "platform": "Linux"}
    where = path or Path(f"{configuration['task']}-{method}-{keep_ratio}-{seed}")
    return Record(
        path=where,
        configuration=configuration,
        environment=[session],
        result=result,
        evaluations=lines,
    )


def group(
    values: Mapping[str, float] = VALUES,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    keep_ratios: Sequence[float] = (0.5,),
    **options: Any,
) -> Group:
    """Runs of methods that end at `values`, each next seed a tenth of a point higher."""
    records = [
        record(method, seed, value=value + seed / 10, keep_ratio=keep_ratio, **options)
        for keep_ratio in keep_ratios
        for method, value in values.items()
        for seed in seeds
        if method != "full" or keep_ratio == keep_ratios[0]
    ]
    own = ("method", "seed", "keep_ratio")
    config = {k: v for k, v in records[0].configuration.items() if k not in own}
    return Group(name=config["task"], config=config, records=records)


def report(*groups: Group) -> Report:
    """The report on runs in memory."""
    return report_of(groups, [], source=Path())


def page(*groups: Group) -> str:
    """The page of runs in memory."""
    return page_of(report(*groups), groups)


class Page(HTMLParser):
    """What a browser would make of a page: elements with attributes, and texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.scripts: dict[str | None, str] = {}
        self._open: list[tuple[str, str | None]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "input", "br"):
            self._open.append((tag, dict(attrs).get("id")))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        name, _ = self._open.pop()
        assert name == tag, f"<{name}> ends as </{tag}>"

    def handle_data(self, data: str) -> None:
        inside = [name for name, _ in self._open]
        if inside[-1:] == ["script"]:
            self.scripts[self._open[-1][1]] = data
            return
        self.texts.append(data)
        if "td" in inside or "th" in inside:
            self.tables[-1][-1][-1] += data

    def count(self, tag: str, **attributes: str) -> int:
        """How many elements have these attributes; `class_` must be one of the classes."""
        wanted = {name.rstrip("_"): value for name, value in attributes.items()}
        return sum(
            name == tag and all(v in (found.get(k) or "").split() for k, v in wanted.items())
            for name, found in self.elements
        )


def check_loads_nothing(text: str) -> None:
    """A page asks for nothing, and its policy lets its own script run alone."""
    found = Page(text)
    assert not re.findall(r"(?:https?:)?//(?!www\.w3\.org)[a-z]", text.split("<script")[0])
    names = {name for name, _ in found.elements}
    assert not names & {"link", "iframe", "object", "embed", "base", "form", "audio", "video"}
    attributes = {name for _, attrs in found.elements for name in attrs}
    assert not any(name.startswith("on") or name in ("style", "srcset") for name in attributes)
    assert all(
        (a["src"] or "").startswith("data:image/png;") for _, a in found.elements if "src" in a
    )
    policy = next(a["content"] for n, a in found.elements if n == "meta" and "http-equiv" in a)
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
