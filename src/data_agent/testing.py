"""The laws that every selector keeps, as a check for one's own: `check_selector(make)`.

    def make(**arguments):            # num_samples, epochs, keep_ratio, seed
        return MySelector(**arguments)

    check_selector(make)              # raises an AssertionError that names the broken law

Each law is a function of its own, so that a test suite can run them one by one (`LAWS`).
"""

from __future__ import annotations

import copy
import io
import math
import random
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_agent._errors import CheckpointError, DataAgentWarning, InputError, StateError
from data_agent._messages import Feedback, Selection
from data_agent._sampler import selection_loader
from data_agent._selector import Selector

Make = Callable[..., Selector]
"""Builds a selector from num_samples=, epochs=, keep_ratio= and seed=."""

NUM_SAMPLES = 203
EPOCHS = 16
BATCH_SIZE = 16
NUM_CLASSES = 4
NUM_FEATURES = 6


def check_selector(make: Make) -> None:
    """Run every law on the selector that `make` builds.

    Args:
        make: called as `make(num_samples=..., epochs=..., keep_ratio=..., seed=...)`; must return
            a new selector each time.

    Raises:
        AssertionError: a law is broken; the message names it.
    """
    for law in LAWS.values():
        law(make)


def law_exact_budget(make: Make) -> None:
    """Every epoch holds exactly K distinct valid samples, ascending, as the schedule says."""
    for keep_ratio in (0.3, 0.5, 1.0):
        selector = _make(make, keep_ratio=keep_ratio)
        expected = max(1, math.floor(selector.schedule.keep_ratio * NUM_SAMPLES + 0.5))
        for selection in _train(selector):
            index = selection.index
            assert index.dtype == torch.int64, f"the selection's index is {index.dtype}"
            assert len(index) == expected, f"{len(index)} samples instead of {expected}"
            assert bool((index[1:] > index[:-1]).all()), "the index is not ascending and distinct"
            assert int(index[0]) >= 0, "negative sample"
            assert int(index[-1]) < NUM_SAMPLES, "sample beyond the dataset"
            _check_weights(selection)


def law_coverage(make: Make) -> None:
    """The first N visits see every sample; in the final phase visits differ by at most one.

    Where nothing is ever chosen (a uniform schedule), that holds for the whole run.
    """
    selector = _make(make, keep_ratio=0.4)
    visits = torch.zeros(NUM_SAMPLES, dtype=torch.int64)
    final = torch.zeros(NUM_SAMPLES, dtype=torch.int64)
    kept = selector.schedule.num_kept
    for epoch, selection in enumerate(_train(selector)):
        visits[selection.index] += 1
        if epoch >= EPOCHS - EPOCHS // 8:
            final[selection.index] += 1
        if epoch == math.ceil(NUM_SAMPLES / kept) - 1:
            assert int(visits.min()) >= 1, "the warm-up missed samples"
    even = visits if selector.schedule.kind == "uniform" else final
    assert int(even.max() - even.min()) <= 1, "the unselected visits are uneven"


def law_same_seed_same_selection(make: Make) -> None:
    """The same feedback, epoch and seed give the same selections; another seed gives others."""
    first = [s.index for s in _train(_make(make, seed=5))]
    again = [s.index for s in _train(_make(make, seed=5))]
    other = [s.index for s in _train(_make(make, seed=6))]
    assert _all_equal(first, again), "two runs with one seed differ"
    if len(first[0]) < NUM_SAMPLES:
        assert not _all_equal(first, other), "another seed gives the same selections"


def law_select_is_pure(make: Make) -> None:
    """select() and iter() change nothing: asking twice, or ahead, gives the same epoch."""
    selector = _make(make)
    loader = selection_loader(_Positions(), selector, batch_size=BATCH_SIZE)
    preview = selector.select(0).index
    assert torch.equal(_delivered(loader), _delivered(loader)), "iter() changed the order"
    for epoch in selector.epochs():
        if epoch == 0:
            assert torch.equal(preview, selector.select(0).index), "the preview was another epoch"
        assert torch.equal(_delivered(loader), _delivered(loader)), "iter() changed the order"
        _observe_epoch(selector, epoch)


def law_loader_delivers_the_selection(make: Make) -> None:
    """The loader delivers each selected sample once, with its own index, in batches of one size."""
    selector = _make(make)
    loader = selection_loader(_Positions(), selector, batch_size=BATCH_SIZE)
    length = len(loader)
    for epoch in selector.epochs():
        batches = list(loader)
        index = torch.cat([batch[1] for batch in batches])
        assert torch.equal(torch.cat([batch[0] for batch in batches]), index), "wrong index"
        assert torch.equal(index.sort().values, selector.select(epoch).index), "wrong samples"
        assert len(batches) == len(loader) == length, "len(loader) is not constant"
        sizes = [len(batch[1]) for batch in batches]
        assert set(sizes[:-1]) <= {BATCH_SIZE}, f"batches of {sizes}"
        _observe_epoch(selector, epoch)


def law_no_global_randomness(make: Make) -> None:
    """Nobody's random state is touched: torch's, NumPy's and Python's generators stand still."""
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    for _ in _train(_make(make)):
        pass
    assert torch.equal(before[0], torch.get_rng_state()), "torch's global generator moved"
    after = np.random.get_state()  # noqa: NPY002
    assert repr(before[1]) == repr(after), "NumPy's global generator moved"
    assert before[2] == random.getstate(), "Python's global generator moved"


def law_resume(make: Make) -> None:
    """Stopped anywhere and restored, the rest of the run is the same."""
    whole = [s.index for s in _train(_make(make, seed=3))]
    for stop_epoch, stop_batch in ((0, 0), (0, 3), (5, 0), (7, 4), (9, None), (EPOCHS - 1, 2)):
        selector = _make(make, seed=3)
        _run_until(selector, stop_epoch, stop_batch)
        restored = _make(make, seed=3)
        restored.load_state_dict(_through_a_file(selector.state_dict()))
        rest: list[Tensor] = []
        for epoch in restored.epochs():
            rest.append(restored.select(epoch).index)
            _observe_epoch(restored, epoch, skip=restored.position(epoch))
        where = f"epoch {stop_epoch}, batch {stop_batch}"
        assert _all_equal(rest, whole[len(whole) - len(rest) :]), f"resumed at {where}: other run"
        first = stop_epoch + (1 if stop_batch is None else 0)
        assert len(rest) == EPOCHS - first, f"resumed at {where}: {len(rest)} epochs were left"
        assert restored.visits == sum(len(index) for index in whole), f"{where}: visits are off"


def law_refuses_bad_feedback(make: Make) -> None:
    """Bad batches raise at once and leave the state as it was."""
    selector = _make(make)
    selector.begin_epoch(0)
    good = _feedback(selector.select(0).index[:BATCH_SIZE], 0)
    selector.observe(good)
    before = copy.deepcopy(selector.state_dict())
    for what, change in _bad_changes(good).items():
        arguments = {name: getattr(good, name) for name in ("index", "losses", "logits")}
        arguments |= {"features": good.features, "labels": good.labels} | change
        try:
            selector.observe(Feedback(**arguments))
        except InputError:
            pass
        else:
            raise AssertionError(f"{what} was accepted")
        after = selector.state_dict()
        before["overhead_seconds"] = after["overhead_seconds"]
        assert _equal(before, after), f"{what} changed the state"


def law_forgotten_calls_are_errors(make: Make) -> None:
    """Without an epoch, or with an epoch that nobody observed, training does not go on silently."""
    selector = _make(make)
    feedback = _feedback(torch.arange(BATCH_SIZE), 0)
    _expect(StateError, lambda: selector.observe(feedback), "feedback before the first epoch")
    loader = selection_loader(_Positions(), selector, batch_size=BATCH_SIZE)
    selector.begin_epoch(0)
    for _ in loader:
        pass
    _expect(StateError, lambda: selector.begin_epoch(1), "an epoch that nobody observed")
    for batch in list(loader)[:2]:
        selector.observe(_feedback(batch[1], 0))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        selector.begin_epoch(1)
    assert any(w.category is DataAgentWarning for w in caught), "no warning for missed batches"


def law_refuses_foreign_state(make: Make) -> None:
    """A state of another run, of a newer version or damaged raises and changes nothing."""
    selector = _make(make)
    _run_until(selector, 3, 2)
    state = selector.state_dict()
    damaged = {**state, "staged_index": state["staged_index"].float()}
    foreign: Mapping[str, Any] = {
        "no state at all": {"weights": torch.ones(3)},
        "a newer version": {**state, "version": state["version"] + 1},
        "another dataset": {**state, "num_samples": NUM_SAMPLES + 1},
        "another method": {**state, "selector": "another"},
        "a damaged state": damaged,
        "a truncated state": {k: v for k, v in state.items() if k != "staged_values"},
    }
    for what, bad in foreign.items():
        before = selector.state_dict()
        _expect(CheckpointError, lambda bad=bad: selector.load_state_dict(bad), what)
        assert _equal(before, selector.state_dict()), f"{what} changed the state"


LAWS: Mapping[str, Callable[[Make], None]] = {
    law.__name__.removeprefix("law_"): law
    for law in (
        law_exact_budget,
        law_coverage,
        law_same_seed_same_selection,
        law_select_is_pure,
        law_loader_delivers_the_selection,
        law_no_global_randomness,
        law_resume,
        law_refuses_bad_feedback,
        law_forgotten_calls_are_errors,
        law_refuses_foreign_state,
    )
}
"""The laws by name."""


class _Positions(torch.utils.data.Dataset[Any]):
    """A dataset whose samples reveal their own position."""

    def __len__(self) -> int:
        return NUM_SAMPLES

    def __getitem__(self, index: int) -> tuple[int]:
        return (index,)


def _make(make: Make, *, keep_ratio: float = 0.5, seed: int = 0) -> Selector:
    return make(num_samples=NUM_SAMPLES, epochs=EPOCHS, keep_ratio=keep_ratio, seed=seed)


def _feedback(index: Tensor, epoch: int) -> Feedback:
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


def _observe_epoch(
    selector: Selector, epoch: int, *, skip: int = 0, num_batches: int | None = None
) -> None:
    batches = selector.select(epoch).index[skip:].split(BATCH_SIZE)
    for index in batches[:num_batches]:
        selector.observe(_feedback(index, epoch))


def _train(selector: Selector) -> list[Selection]:
    selections: list[Selection] = []
    for epoch in selector.epochs():
        selections.append(selector.select(epoch))
        _observe_epoch(selector, epoch)
    return selections


def _run_until(selector: Selector, epoch: int, num_batches: int | None) -> None:
    """Train up to batch `num_batches` of `epoch` (None: to its end)."""
    for now in range(epoch):
        selector.begin_epoch(now)
        _observe_epoch(selector, now)
    if num_batches != 0 or epoch:
        selector.begin_epoch(epoch)
        _observe_epoch(selector, epoch, num_batches=num_batches)


def _delivered(loader: Any) -> Tensor:
    return torch.cat([batch[1] for batch in loader])


def _through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    """As a checkpoint: only tensors and plain values survive."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def _bad_changes(good: Feedback) -> Mapping[str, dict[str, Any]]:
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


def _check_weights(selection: Selection) -> None:
    if selection.weights is None:
        return
    assert selection.weights.shape == selection.index.shape, "weights and index differ in length"
    assert selection.weights.dtype == torch.float32, f"weights are {selection.weights.dtype}"
    assert bool((selection.weights >= 0).all()), "negative weights"
    assert abs(float(selection.weights.mean()) - 1) < 1e-3, "weights do not have mean one"


def _expect(kind: type[Exception], call: Callable[[], object], what: str) -> None:
    try:
        call()
    except kind:
        return
    raise AssertionError(f"{what} was accepted (expected {kind.__name__})")


def _all_equal(first: list[Tensor], second: list[Tensor]) -> bool:
    return len(first) == len(second) and all(map(torch.equal, first, second))


def _equal(first: Any, second: Any) -> bool:
    """Equality of nested states."""
    if isinstance(first, Tensor):
        return isinstance(second, Tensor) and torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(_equal(first[k], second[k]) for k in first)
    if isinstance(first, list):
        return len(first) == len(second) and all(map(_equal, first, second))
    return bool(first == second)
