"""A card for each method, read from its class and its file, and from what the class does."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

import torch

from data_agent import BatchSelector, Feedback
from data_agent.baselines.refreshed import Refreshed
from data_agent.errors import InputError
from data_agent.methods import METHODS, make_selector, method_class
from data_agent_lab.methods import expected_cost, is_batch_selector

_COST = "cost at keep ratio 0.5"
_PARTS = ("logits", "labels", "features")  # of a batch, beside losses and index


def card(name: str, source: str) -> str:
    """What a reader wants to know of a method.

    Args:
        name: the method's.
        source: where a page shows its file.
    """
    kind = method_class(name)
    told = docstring_of(name)
    first = next(one for one in METHODS if method_class(one).__module__ == kind.__module__)
    if first != name:
        told = f"Described with [`{first}`](#{first}), whose file it shares."
    facts = {"class": f"[`{kind.__name__}`]({source})", **facts_of(name)}
    head, *lines = (f"| {what} | {value} |" for what, value in facts.items())
    table = "\n".join((head, "|---|---|", *lines))
    shown = "{members: false, show_root_heading: false, show_root_toc_entry: false}"
    return (
        f"## {name}\n\n{told}\n\n{table}\n\n"
        f"::: {kind.__module__}.{kind.__name__}\n    options: {shown}\n"
    )


def docstring_of(name: str) -> str:
    """What the file of a method says: where it comes from, and where ours departs from that."""
    return inspect.getdoc(sys.modules[method_class(name).__module__]) or ""


def file_of(name: str) -> Path:
    """The file that a method's class is in."""
    return Path(inspect.getfile(method_class(name)))


def facts_of(name: str) -> dict[str, str]:
    """What a method must be given, what it costs, what it reads, which epochs it chooses."""
    kind, run = method_class(name), run_of(name)
    selector = make_selector(name, **run)
    facts = {"built with": ", ".join(f"`{option}=`" for option in kind.required)}
    made = [option for option in kind.required if option != "labels"]
    if made:
        facts["how the command makes them"] = (inspect.getdoc(kind.prepare) or "").split("\n")[0]
    facts["a batch must bring"] = ", ".join(("losses", *needed_by(name)))
    if getattr(selector, "label_rules", None):
        facts["a batch must bring"] += "; for its rule of doubtful labels logits too"
    facts[_COST] = f"{expected_cost(name, 0.5, epochs=16):.2f} of full training"
    if selector.schedule.kind == "floating":
        facts[_COST] = "its own, whatever the keep ratio"
    if issubclass(kind, Refreshed):
        facts["must be told"] = "how good the model is on each sample: `refresh(goodness)`"
        facts[_COST] += ", its looks at all samples included"
    if selector.reads:
        facts["reads of a batch"] = ", ".join(("losses", *selector.reads))
    if made:
        is_search = "near_duplicates" in inspect.getsource(kind.prepare)
        more = "search for near-duplicates" if is_search else f"trainings that make its {made[0]}"
        facts[_COST] += f", and the {more}"
    facts["chooses"] = choice_of(name)
    return {what: value for what, value in facts.items() if value}


def run_of(name: str) -> dict[str, Any]:
    """A small run of a method, with the options that it is built with."""
    given = {"labels": torch.arange(100) % 2, "groups": torch.arange(100) % 2}
    given["scores"] = torch.linspace(0, 1, 100)
    options = {option: given[option] for option in method_class(name).required}
    return {"num_samples": 100, "epochs": 16, "keep_ratio": 0.5, **options}


def choice_of(name: str) -> str:
    """Where a method chooses: in each batch, or which epochs and how much of them."""
    if is_batch_selector(name):
        return "in each batch"
    run = run_of(name)
    selector = make_selector(name, **run)
    schedule = selector.schedule.kind
    words = f"by schedule `{schedule}`"
    if schedule == "static":
        first, second = (set(selector.select(epoch).index.tolist()) for epoch in (0, 1))
        words += ", the same samples in all epochs" if first == second else ", anew in each epoch"
    elif schedule != "floating":
        other = make_selector(name, **run, trusted=range(5)).schedule.kind
        words += f" (with trusted rows `{other}`)" if other != schedule else ""
    if selector.explore:
        words += f", {100 * selector.explore:g} % of a chosen epoch drawn uniformly"
    return words


def needed_by(name: str) -> list[str]:
    """What a batch must bring beside its losses: what the method refuses to do without."""
    run = run_of(name)
    needed = [part for part in _PARTS if not is_taken(name, run, {*_PARTS} - {part})]
    if "logits" in needed and is_taken(name, run, {*_PARTS, "uncertainty"} - {"logits"}):
        needed[needed.index("logits")] = "logits or an uncertainty"
    return needed


def is_taken(name: str, run: Mapping[str, Any], parts: Set[str]) -> bool:
    """Whether a method takes a batch that brings these parts."""
    selector = make_selector(name, **run)
    selector.begin_epoch(0)
    index = selector.select(0).index[:8]
    every = {"logits": torch.eye(8, 2), "labels": index % 2, "features": torch.eye(8, 3)}
    every["uncertainty"] = torch.linspace(0, 1, 8)
    batch = Feedback(index, torch.linspace(0, 1, 8), **{part: every[part] for part in parts})
    try:
        if isinstance(selector, BatchSelector):
            selector.select_batch(batch)
        else:
            selector.observe(batch)
            selector.settle()
    except InputError:
        return False
    return True
