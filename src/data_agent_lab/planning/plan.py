"""What a run will be: its phases, visits and steps, the memory of its selector, and warnings."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import TensorDataset

from data_agent import (
    BatchSelector,
    Feedback,
    SelectionSchedule,
    Selector,
    make_selector,
    selection_loader,
)
from data_agent.baselines.refreshed import Refreshed
from data_agent.errors import DataAgentWarning, InputError
from data_agent.labels import LabelRules
from data_agent.methods import method_class
from data_agent_lab.detection_recipe import DetectionRecipe
from data_agent_lab.methods import (
    FULL,
    FULL_SHORT,
    RANDOM,
    check_fits_boxes,
    check_fits_language,
    check_not_refreshed,
    cost_of_looks,
    expected_cost,
    is_batch_selector,
    needs,
)
from data_agent_lab.planning.advice import LABEL_AWARE, Facts
from data_agent_lab.planning.facts import facts_of
from data_agent_lab.recipes import PromptRecipe, RunConfig, TextRecipe
from data_agent_lab.training.plan import Plan, num_trusted_of, plan_run

_FEW_STEPS = 100
_FEW_OF_A_CLASS = 10
_FEATURES = 64  # of a made-up model; what a policy keeps depends little on it
_MOST_WITH_NUMBERS = 10_000_000  # samples; of more a selector does not remember what each showed
_BATCHES = 128  # of the selectors that memory is measured by: more than any keeps as they came
_BATCH_SIZES = (8, 128)  # of these; larger ones take too long
_FEWEST = 64  # samples of these
_LEAST_KEPT = 0.3  # the smallest keep ratio of a stored comparison
_NAMES = {"warm-up": "first pass", "selected": "selection", "final": "final phase"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Phase:
    """Epochs that are alike."""

    name: str
    first: int  # epoch, from 1 on
    last: int
    num_trusted: int  # samples in each of its epochs: whatever the method thinks of them
    num_unselected: int  # whatever comes
    num_explored: int  # drawn uniformly of all, so that trusted ones can be among them
    num_selected: int  # chosen by the method, at least where trusted ones are drawn besides

    def in_words(self) -> str:
        """Its epochs, and what each of them is made of."""
        epochs = f"epoch {self.first}" if self.first == self.last else f"{self.first}-{self.last}"
        is_shared = self.num_trusted and not self.num_selected
        can_repeat = self.num_trusted and self.num_explored + self.num_unselected
        parts = (
            (self.num_trusted, "{} trusted"),
            (self.num_unselected, f"{{}} of all {'other ' if is_shared else ''}samples in turn"),
            (self.num_explored, "{} drawn uniformly"),
            (self.num_selected, "at least {} chosen" if can_repeat else "{} chosen"),
        )
        made_of = (words.format(f"{count:,}") for count, words in parts if count)
        return f"{self.name}, {epochs}: {', '.join(made_of)}"


class Kept(NamedTuple):
    """Bytes that a selector keeps in memory and in checkpoints."""

    sample: float  # of each sample
    fixed: int  # whatever their number: networks, what a batch showed


@dataclass(frozen=True, kw_only=True, slots=True)
class RunPlan:
    """What a run will be."""

    config: RunConfig[Any]
    facts: Facts
    num_samples: int
    num_trusted: int  # of these
    phases: tuple[Phase, ...]
    num_steps: int  # of the optimizer, over which the learning rate is spread
    cost: float  # share of full training, without scores that are made beforehand
    is_bound: bool  # whether visits and steps are at most so many
    kept: Kept | None  # by the selector; None of a method that needs scores first
    warnings: tuple[str, ...]


def plan_of(config: RunConfig[Any], data: Any) -> RunPlan:
    """The plan of a run on loaded data; nothing is trained.

    Args:
        config: the run.
        data: what `tasks.load_kept` gave for its recipe.

    Raises:
        InputError: the method cannot run on these data or beside so many trusted samples, or the
            run is about prompts.
    """
    recipe = config.recipe
    if isinstance(recipe, PromptRecipe):
        raise InputError(
            f"plan is for samples of a data set, and {recipe.task} rolls prompts out, as many for "
            "every method: epochs x batches x batch-size x generations."
        )
    facts = facts_of(data)
    if isinstance(recipe, TextRecipe):
        check_fits_language(config.method, has_labels=bool(facts.num_classes))
    elif isinstance(recipe, DetectionRecipe):
        check_fits_boxes(config.method)
    else:
        check_not_refreshed(config.method)
    num_trusted = num_trusted_of(data, recipe)
    made = plan_run(config, num_samples=data.num_train)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DataAgentWarning)
        schedule = _schedule(config, made, data.num_train, num_trusted)
    num_steps = made.max_steps
    if num_steps is None:
        num_steps = schedule.total_steps(accumulation=recipe.accumulation)
    kept = None
    if not needs(config.method):
        kept = kept_by(
            made,
            num_samples=data.num_train,
            num_trusted=num_trusted,
            batch_size=recipe.batch_size,
            facts=facts,
        )
    told = [str(found.message) for found in caught]
    return RunPlan(
        config=config,
        facts=facts,
        num_samples=data.num_train,
        num_trusted=num_trusted,
        phases=tuple(_phases(schedule, num_trusted)),
        num_steps=num_steps,
        cost=_cost(config, made, schedule),
        is_bound=schedule.kind == "floating",
        kept=kept,
        warnings=(*told, *_warnings(config, facts, schedule, num_steps)),
    )


def _schedule(
    config: RunConfig[Any], made: Plan, num_samples: int, num_trusted: int
) -> SelectionSchedule:
    """The schedule as a loader delivers it."""
    method, batch_size = config.method, config.recipe.batch_size
    options: dict[str, Any] = {"trusted": range(num_trusted)} if num_trusted else {}
    name = made.selector
    if needs(method):  # what is still to be made; its schedule is that of any method
        name, options["schedule"] = RANDOM, method_class(method).default_schedule
    if is_batch_selector(method):  # a pool, which leaves it a batch
        batch_size = round(batch_size / config.keep_ratio)
    selector = make_selector(
        name, num_samples=num_samples, epochs=made.epochs, keep_ratio=made.keep_ratio, **options
    )
    selector.use_loader(batch_size)
    return selector.schedule


def _cost(config: RunConfig[Any], made: Plan, schedule: SelectionSchedule) -> float:
    """The share of full training, by the visits that the schedule has."""
    method, keep_ratio, epochs = config.method, config.keep_ratio, config.recipe.epochs
    if is_batch_selector(method) or schedule.kind == "floating":
        return expected_cost(method, keep_ratio, epochs=epochs)
    visits = schedule.total_visits
    if made.max_steps is not None:
        visits = _visits_in(made.max_steps, schedule, accumulation=config.recipe.accumulation)
    share = visits / (schedule.num_samples * epochs)
    return share + cost_of_looks(method, keep_ratio, epochs=epochs)


def _visits_in(num_steps: int, schedule: SelectionSchedule, *, accumulation: int) -> int:
    """Samples in the first optimizer steps of a schedule."""
    visits = 0
    for epoch in range(schedule.epochs):
        sizes = list(schedule.batch_sizes(schedule.epoch_size(epoch), 0))
        taken = sizes[: num_steps * accumulation]
        visits, num_steps = visits + sum(taken), num_steps - math.ceil(len(taken) / accumulation)
    return visits


def _phases(schedule: SelectionSchedule, num_trusted: int) -> Iterator[Phase]:
    """The epochs, those that are alike as one."""
    for plan, alike in groupby(range(schedule.epochs), key=schedule.plan):
        epochs = list(alike)
        trusted = 0 if plan.phase == "warm-up" else num_trusted  # in a pass over all, once as all
        is_shared = not plan.num_selected
        yield Phase(
            name="all alike" if schedule.kind == "uniform" else _NAMES[plan.phase],
            first=epochs[0] + 1,
            last=epochs[-1] + 1,
            num_trusted=trusted,
            num_unselected=plan.num_unselected - (trusted if is_shared else 0),
            num_explored=plan.num_explored,
            num_selected=0 if is_shared else max(0, plan.num_selected - trusted),
        )


def kept_by(
    made: Plan, *, num_samples: int, num_trusted: int, batch_size: int, facts: Facts
) -> Kept:
    """What a selector keeps, from small ones, of which one has as many samples where these are few.

    What two differ by that had more batches than any keeps as they came is by sample.
    """
    least, most = _BATCH_SIZES
    batch_size = min(max(batch_size, least), most)
    budget: dict[str, Any] = {"epochs": 16, "keep_ratio": max(0.5, made.keep_ratio)}
    budget["sample_statistics"] = num_samples <= _MOST_WITH_NUMBERS

    def measured(size: int) -> int:
        if num_trusted:
            budget["trusted"] = range(max(1, num_trusted * size // num_samples))
        selector = make_selector(made.selector, num_samples=size, **budget)
        return _state_bytes(selector, batch_size, facts.num_classes)

    large = _BATCHES * batch_size
    size, large_bytes = min(max(num_samples, _FEWEST), large), measured(large)
    by_sample = (measured(2 * large) - large_bytes) / large
    fixed = (large_bytes if size == large else measured(size)) - by_sample * size
    return Kept(by_sample, max(0, round(fixed)))


def _state_bytes(selector: Selector, batch_size: int, num_classes: int) -> int:
    """Bytes of a selector's state at the end of an epoch, behind the first pass over all samples.

    By then as many batches came as it ever keeps, if it has so many.
    """
    dataset = TensorDataset(torch.arange(selector.schedule.num_samples))
    loader = selection_loader(dataset, selector, batch_size=batch_size)
    num_batches = 0
    for epoch in selector.epochs():
        for _, index in loader:
            rows = index
            if isinstance(selector, BatchSelector):
                rows = index[selector.select_batch(_made_up(index, num_classes)).cpu()]
            selector.observe(_made_up(rows, num_classes))
            num_batches += 1
        if isinstance(selector, Refreshed) and selector.is_due(epoch + 1):
            selector.refresh(torch.linspace(0, 1, selector.schedule.num_samples))
        if epoch and num_batches >= _BATCHES:
            break
    return bytes_in(selector.state_dict())


def _made_up(index: Tensor, num_classes: int) -> Feedback:
    """What a batch could show."""
    losses = torch.ones(len(index))
    features = (index.unsqueeze(1) % torch.arange(2, 2 + _FEATURES)).float()
    if not num_classes:
        return Feedback(index, losses, features=features, uncertainty=losses / 2)
    labels = index % num_classes
    logits = F.one_hot(labels, max(2, num_classes)).float()
    return Feedback(index, losses, logits, features, labels)


def bytes_in(state: Any) -> int:
    """Bytes of all tensors in a nested state."""
    if isinstance(state, torch.Tensor):
        return state.numel() * state.element_size()
    parts = state.values() if isinstance(state, dict) else state
    return sum(map(bytes_in, parts)) if isinstance(state, dict | list | tuple) else 0


def _warnings(
    config: RunConfig[Any], facts: Facts, schedule: SelectionSchedule, num_steps: int
) -> Iterator[str]:
    """What will make a selection little worth, or cannot work as it is named."""
    kept, is_selection = schedule.num_kept, config.method not in (FULL, FULL_SHORT)
    if num_steps < _FEW_STEPS:
        yield f"{num_steps} optimizer steps are few: whatever is selected, little is learned."
    if not is_selection:
        return
    if config.keep_ratio < _LEAST_KEPT:
        yield (
            f"--keep-ratio {config.keep_ratio:g} is below {_LEAST_KEPT:g}, the least that was "
            "measured (docs/when-it-helps.md)."
        )
    if kept < config.recipe.batch_size:
        yield f"an epoch of {kept:,} samples does not fill a batch of {config.recipe.batch_size:,}."
    if facts.num_classes and kept < _FEW_OF_A_CLASS * facts.num_classes:
        yield f"an epoch has about {kept / facts.num_classes:.1f} samples of a class."
    if config.method == LABEL_AWARE and 0 < facts.num_classes < LabelRules().fewest_classes:
        yield (
            f"of {facts.num_classes} classes no doubtful label is left out: a right one is easily "
            "the least likely. Shares of the classes are equal all the same."
        )
