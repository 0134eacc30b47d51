"""Small runs of a selector, for its laws: data, feedback, and comparing states."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

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


class Positions(torch.utils.data.Dataset[Any]):
    """A dataset whose samples reveal their own position."""

    def __len__(self) -> int:
        return NUM_SAMPLES

    def __getitem__(self, index: int) -> tuple[int]:
        return (index,)


def build(make: Make, *, keep_ratio: float = 0.5, seed: int = 0) -> Selector:
    """A new selector of the size that the laws use."""
    return make(num_samples=NUM_SAMPLES, epochs=EPOCHS, keep_ratio=keep_ratio, seed=seed)


def feedback(index: Tensor, epoch: int) -> Feedback:
    """What a model could have shown: a function of sample and epoch alone."""
    draws = np.random.default_rng([epoch, 1]).random((NUM_SAMPLES, NUM_CLASSES + NUM_FEATURES + 1))
    rows = torch.from_numpy(draws).float()[index]
    return Feedback(
        index,
        losses=rows[:, 0] * (1 + index % 7),
        logits=rows[:, 1 : 1 + NUM_CLASSES] * 3,
        features=rows[:, 1 + NUM_CLASSES :] + (index % 5).unsqueeze(1),
        labels=index % NUM_CLASSES,
    )


def observe_epoch(
    selector: Selector, epoch: int, *, skip: int = 0, num_batches: int | None = None
) -> None:
    """Observe `epoch` of which `skip` samples were seen before, or its first batches."""
    batches = selector.select(epoch).index[skip:].split(BATCH_SIZE)
    for index in batches[:num_batches]:
        observe_batch(selector, index, epoch)


def observe_batch(selector: Selector, index: Tensor, epoch: int) -> None:
    """Observe the batch `index`, or what a batch selector takes of it."""
    if isinstance(selector, BatchSelector):
        index = index[selector.select_batch(feedback(index, epoch))]
    selector.observe(feedback(index, epoch))


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


def delivered(loader: Any) -> Tensor:
    """The indices that a loader delivers, in order."""
    return torch.cat([batch[1] for batch in loader])


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    """As a checkpoint: only tensors and plain values survive."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def bad_changes(good: Feedback) -> Mapping[str, dict[str, Any]]:
    """What must be refused, and how it differs from a good batch."""
    nan = good.losses.clone()
    nan[1] = torch.nan
    assert good.logits is not None
    return {
        "an index beyond the dataset": {"index": good.index + NUM_SAMPLES},
        "a negative index": {"index": good.index - NUM_SAMPLES - 1},
        "an index in int32": {"index": good.index.int()},
        "a floating-point index": {"index": good.index.float()},
        "an index of another length": {"index": good.index[1:]},
        "a reduced loss": {"losses": good.losses.mean()},
        "losses in integers": {"losses": good.losses.long()},
        "a loss that is not a number": {"losses": nan},
        "logits of another length": {"logits": good.logits[1:]},
        "logits of a sequence": {"logits": good.logits.unsqueeze(1)},
    }


def check_weights(selection: Selection) -> None:
    """Weights are one for each sample, not negative, one on average."""
    if selection.weights is None:
        return
    weights = selection.weights
    assert weights.shape == selection.index.shape, "weights and index differ in length"
    assert weights.dtype == torch.float32, f"weights are {weights.dtype}"
    assert bool((weights >= 0).all()), "negative weights"
    assert abs(float(weights.mean()) - 1) < 1e-3, "weights do not have mean one"


def expect(kind: type[Exception], call: Callable[[], object], what: str) -> None:
    """Assert that `call` raises this kind of error."""
    try:
        call()
    except kind:
        return
    raise AssertionError(f"{what} was accepted (expected {kind.__name__})")


def all_equal(first: list[Tensor], second: list[Tensor]) -> bool:
    """Whether two lists of tensors are the same."""
    return len(first) == len(second) and all(map(torch.equal, first, second))


def same_state(first: Selector, second: Selector) -> bool:
    """Equality of everything but time."""
    return equal_states(
        first.state_dict(), {**second.state_dict(), "overhead_seconds": first.overhead_seconds}
    )


def leaves(state: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where a nested state holds values."""
    if isinstance(state, dict):
        return [leaf for key, value in state.items() for leaf in leaves(value, (*path, key))]
    if isinstance(state, list) and state:
        return leaves(state[0], (*path, 0))
    return [path]


def replace_leaf(state: Any, path: tuple[Any, ...], value: object) -> None:
    """Put `value` in the place that `path` names."""
    for key in path[:-1]:
        state = state[key]
    state[path[-1]] = value


def equal_states(first: Any, second: Any) -> bool:
    """Equality of nested states."""
    if isinstance(first, Tensor):
        return isinstance(second, Tensor) and torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(
            equal_states(first[k], second[k]) for k in first
        )
    if isinstance(first, list):
        return len(first) == len(second) and all(map(equal_states, first, second))
    return bool(first == second)
