"""Small runs of a selector, for its laws: data, feedback, and comparing states."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from data_agent.loading.loader import selection_loader
from data_agent.selecting.batch_selector import BatchSelector
from data_agent.selecting.feedback import Feedback, Selection
from data_agent.selecting.selector import Selector

Make = Callable[..., Selector]
"""Builds a selector from num_samples=, epochs=, keep_ratio= and seed=."""

NUM_SAMPLES = 203
EPOCHS = 16
BATCH_SIZE = 16
NUM_CLASSES = 4
NUM_FEATURES = 6


def build(make: Make, *, keep_ratio: float = 0.5, seed: int = 0) -> Selector:
    """A new selector of the size that the laws use."""
    return make(num_samples=NUM_SAMPLES, epochs=EPOCHS, keep_ratio=keep_ratio, seed=seed)


def loader_of(selector: Selector) -> DataLoader[Any]:
    """Batches (position, index) of data whose samples reveal their own position."""
    data = TensorDataset(torch.arange(NUM_SAMPLES))
    return selection_loader(data, selector, batch_size=BATCH_SIZE)


def feedback(index: Tensor, epoch: int) -> Feedback:
    """What a model could have shown: a function of sample and epoch alone."""
    rows = _draws(epoch)[index]
    return Feedback(
        index,
        losses=rows[:, 0] * (1 + index % 7),
        logits=rows[:, 1 : 1 + NUM_CLASSES] * 3,
        features=rows[:, 1 + NUM_CLASSES :] + (index % 5).unsqueeze(1),
        labels=index % NUM_CLASSES,
    )


@cache
def _draws(epoch: int) -> Tensor:
    shape = (NUM_SAMPLES, NUM_CLASSES + NUM_FEATURES + 1)
    return torch.from_numpy(np.random.default_rng([epoch, 1]).random(shape)).float()


def observe_batch(selector: Selector, index: Tensor, epoch: int) -> None:
    """Observe the batch `index`, or what a batch selector takes of it."""
    if isinstance(selector, BatchSelector):
        index = index[selector.select_batch(feedback(index, epoch))]
    selector.observe(feedback(index, epoch))


def observe_epoch(
    selector: Selector, epoch: int, *, skip: int = 0, num_batches: int | None = None
) -> None:
    """Observe `epoch` of which `skip` samples were seen before, or its first batches."""
    for index in selector.select(epoch).index[skip:].split(BATCH_SIZE)[:num_batches]:
        observe_batch(selector, index, epoch)


def train(selector: Selector) -> list[Selection]:
    """Train to the end; the selection of each epoch."""
    selections: list[Selection] = []
    for epoch in selector.epochs():
        selections.append(selector.select(epoch))
        observe_epoch(selector, epoch)
    return selections


def run_until(selector: Selector, epoch: int, num_batches: int | None) -> None:
    """Train up to batch `num_batches` of `epoch` (None: to its end)."""
    for now in range(epoch):
        selector.begin_epoch(now)
        observe_epoch(selector, now)
    if num_batches != 0 or epoch:
        selector.begin_epoch(epoch)
        observe_epoch(selector, epoch, num_batches=num_batches)


def state_of(selector: Selector) -> dict[str, Any]:
    """A copy of the selector's state, without the time that it took."""
    return copy.deepcopy({**selector.state_dict(), "overhead_seconds": 0.0})


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    """As a checkpoint: only tensors and plain values survive."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def equal_states(first: Any, second: Any) -> bool:
    """Equality of nested states; what is not known (NaN) equals itself."""
    if isinstance(first, Tensor):
        if not isinstance(second, Tensor) or first.shape != second.shape:
            return False
        return bool(((first == second) | (first.isnan() & second.isnan())).all())
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(
            equal_states(first[k], second[k]) for k in first
        )
    if isinstance(first, list):
        return len(first) == len(second) and all(map(equal_states, first, second))
    return bool(first == second)


def damaged(good: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """A nested state with one value replaced, for every value, and which it was.

    What is not replaced is the very same object.
    """
    for keys in _leaves(good):
        for damage in (None, "text", -1, torch.zeros(1), [], {}):
            yield f"{keys} = {damage!r}", _replaced(good, keys, damage)


def _replaced(state: Any, keys: list[Any], value: Any) -> Any:
    if not keys:
        return value
    copied = copy.copy(state)
    copied[keys[0]] = _replaced(state[keys[0]], keys[1:], value)
    return copied


def _leaves(state: Any) -> list[list[Any]]:
    """Where a nested state holds values: the keys that lead there."""
    if isinstance(state, dict):
        return [[key, *leaf] for key, value in state.items() for leaf in _leaves(value)]
    if isinstance(state, list) and state:
        return [[0, *leaf] for leaf in _leaves(state[0])]
    return [[]]


def expect(kind: type[Exception], call: Callable[[], object], what: str) -> None:
    """`call` must raise `kind`."""
    try:
        call()
    except kind:
        return
    raise AssertionError(f"{what} was accepted (expected {kind.__name__})")
