"""The laws, one function each: `law(make)` raises an AssertionError where it is broken."""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_agent.errors import CheckpointError, DataAgentWarning, InputError, StateError
from data_agent.selecting.batch_selector import BatchSelector
from data_agent.selecting.feedback import Selection
from data_agent.testing.runs import (
    BATCH_SIZE,
    EPOCHS,
    NUM_SAMPLES,
    Make,
    build,
    damaged,
    equal_states,
    expect,
    feedback,
    loader_of,
    observe_batch,
    observe_epoch,
    run_until,
    state_of,
    through_a_file,
    train,
)


def law_exact_budget(make: Make) -> None:
    """Every epoch holds exactly K distinct valid samples, ascending, as the schedule says.

    A batch selector is offered all samples in an epoch, and trains on exactly K of them. In a
    floating schedule K is only a bound.
    """
    for keep_ratio in (0.3, 0.5, 1.0):
        selector = build(make, keep_ratio=keep_ratio)
        expected = max(1, math.floor(selector.schedule.keep_ratio * NUM_SAMPLES + 0.5))
        for epoch in selector.epochs():
            before, selection = selector.visits, selector.select(epoch)
            observe_epoch(selector, epoch)
            if isinstance(selector, BatchSelector):
                visits, kept = selector.visits - before, math.floor(keep_ratio * NUM_SAMPLES + 0.5)
                assert visits == kept, f"{visits} samples were trained on instead of {kept}"
            index = selection.index
            assert index.dtype == torch.int64, f"the selection's index is {index.dtype}"
            assert bool((index[1:] > index[:-1]).all()), "the index is not ascending and distinct"
            assert int(index[0]) >= 0, "negative sample"
            assert int(index[-1]) < NUM_SAMPLES, "sample beyond the dataset"
            if selector.schedule.kind != "floating":
                assert len(index) == expected, f"{len(index)} samples instead of {expected}"
                _check_weights(selection)


def _check_weights(selection: Selection) -> None:
    if (weights := selection.weights) is not None:
        assert weights.shape == selection.index.shape, "weights and index differ in length"
        assert weights.dtype == torch.float32, f"weights are {weights.dtype}"
        assert bool((weights >= 0).all()), "negative weights"
        assert abs(float(weights.mean()) - 1) < 1e-3, "weights do not have mean one"


def law_coverage(make: Make) -> None:
    """The first N visits see every sample; in the final phase visits differ by at most one.

    Where nothing is ever chosen (a uniform schedule), that holds for the whole run. A subset that
    stands before training (a static schedule) makes no such promise, and what is chosen to the end
    none of the final phase.
    """
    selector = build(make, keep_ratio=0.4)
    if selector.schedule.kind == "static":
        return
    visits = torch.zeros(NUM_SAMPLES, dtype=torch.int64)
    final = torch.zeros(NUM_SAMPLES, dtype=torch.int64)
    kept = selector.schedule.num_kept
    is_crowded = selector.schedule.kind == "uniform" and selector.trusted is not None
    for epoch, selection in enumerate(train(selector)):
        visits[selection.index] += 1
        if epoch >= EPOCHS - EPOCHS // 8:
            final[selection.index] += 1
        if epoch == math.ceil(NUM_SAMPLES / kept) - 1 and not is_crowded:
            assert int(visits.min()) >= 1, "the warm-up missed samples"
    if selector.schedule.kind == "to-the-end":
        return
    even = visits if selector.schedule.kind == "uniform" else final
    if selector.trusted is not None:  # which are in every epoch
        even = even[~selector.trusted]
    assert int(even.max() - even.min()) <= 1, "the unselected visits are uneven"


def law_same_seed_same_selection(make: Make) -> None:
    """The same feedback, epoch and seed give the same selections; another seed gives others.

    A subset of given scores is the same for every seed.
    """
    first, again, other = ([s.index for s in train(build(make, seed=s))] for s in (5, 5, 6))
    assert equal_states(first, again), "two runs with one seed differ"
    if len(first[0]) < NUM_SAMPLES and "scores" not in build(make).required:
        assert not equal_states(first, other), "another seed gives the same selections"


def law_select_is_pure(make: Make) -> None:
    """select() and iter() change nothing: asking twice, or ahead, gives the same epoch."""
    selector = build(make)
    loader = loader_of(selector)
    preview = selector.select(0).index

    def delivered() -> Tensor:
        return torch.cat([index for _, index in loader])

    assert torch.equal(delivered(), delivered()), "iter() changed the order"
    for epoch in selector.epochs():
        if epoch == 0:
            assert torch.equal(preview, selector.select(0).index), "the preview was another epoch"
        assert torch.equal(delivered(), delivered()), "iter() changed the order"
        for _, index in loader:
            observe_batch(selector, index, epoch)


def law_loader_delivers_the_selection(make: Make) -> None:
    """The loader delivers each selected sample once, with its own index, in the planned batches.

    All are of one size but the last ones, of which none is smaller than the smallest batch of a
    loader without a selection, as far as the exact budget allows.
    """
    selector = build(make)
    loader = loader_of(selector)
    length = len(loader)
    for epoch in selector.epochs():
        batches = list(loader)
        position, index = map(torch.cat, zip(*batches, strict=True))
        assert torch.equal(position, index), "wrong index"
        assert torch.equal(index.sort().values, selector.select(epoch).index), "wrong samples"
        assert len(batches) == len(loader), "len(loader) is wrong"
        is_constant = len(loader) == length or selector.schedule.kind == "floating"
        assert is_constant, "len(loader) is not constant"
        sizes = [len(batch) for _, batch in batches]
        planned = list(selector.schedule.batch_sizes(len(index), 0))
        assert sizes == planned, f"batches of {sizes} instead of {planned}"
        smallest = min(NUM_SAMPLES % BATCH_SIZE, len(index) // len(batches))
        assert min(sizes) >= smallest, f"batches of {sizes}, of which all should hold {smallest}"
        for _, batch in batches:
            observe_batch(selector, batch, epoch)


def law_no_global_randomness(make: Make) -> None:
    """Nobody's random state is touched: torch's, NumPy's and Python's generators stand still."""
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    train(build(make))
    assert torch.equal(before[0], torch.get_rng_state()), "torch's global generator moved"
    after = np.random.get_state()  # noqa: NPY002
    assert repr(before[1]) == repr(after), "NumPy's global generator moved"
    assert before[2] == random.getstate(), "Python's global generator moved"


def law_saving_changes_nothing(make: Make) -> None:
    """A run that saves after every batch is the run that never saves."""
    plain, saving = build(make, seed=3), build(make, seed=3)
    train(plain)
    for epoch in saving.epochs():
        for index in saving.select(epoch).index.split(BATCH_SIZE):
            observe_batch(saving, index, epoch)
            saving.state_dict()
    assert equal_states(state_of(plain), state_of(saving)), "state_dict() changed the run"


def law_resume(make: Make) -> None:
    """Stopped anywhere and restored, the rest of the run is the same, to the last bit of state."""
    undisturbed = build(make, seed=3)
    whole = [s.index for s in train(undisturbed)]
    end = state_of(undisturbed)
    for stop_epoch, stop_batch in ((0, 0), (0, 3), (5, 0), (7, 4), (9, None), (EPOCHS - 1, 2)):
        selector = build(make, seed=3)
        run_until(selector, stop_epoch, stop_batch)
        restored = build(make, seed=3)
        restored.load_state_dict(through_a_file(selector.state_dict()))
        rest: list[Tensor] = []
        for epoch in restored.epochs():
            rest.append(restored.select(epoch).index)
            observe_epoch(restored, epoch, skip=restored.position(epoch))
        where = f"epoch {stop_epoch}, batch {stop_batch}"
        assert equal_states(rest, whole[len(whole) - len(rest) :]), f"resumed at {where}: other run"
        assert equal_states(end, state_of(restored)), f"resumed at {where}: another end"
        first = stop_epoch + (1 if stop_batch is None else 0)
        assert len(rest) == EPOCHS - first, f"resumed at {where}: {len(rest)} epochs were left"
        assert restored.visits == undisturbed.visits, f"{where}: visits are off"


def law_refuses_bad_feedback(make: Make) -> None:
    """Bad batches raise at once and leave the state as it was."""
    selector = build(make)
    selector.begin_epoch(0)
    first, second, *_ = selector.select(0).index.split(BATCH_SIZE)
    observe_batch(selector, first, 0)
    good = feedback(second, 0)
    assert good.logits is not None
    nan = good.losses.clone()
    nan[1] = torch.nan
    bad: Mapping[str, Mapping[str, Any]] = {
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
    call = selector.select_batch if isinstance(selector, BatchSelector) else selector.observe
    before = state_of(selector)
    for what, change in bad.items():
        expect(InputError, lambda change=change: call(replace(good, **change)), what)
        assert equal_states(before, state_of(selector)), f"{what} changed the state"


def law_forgotten_calls_are_errors(make: Make) -> None:
    """Without an epoch, or with an epoch that nobody observed, training does not go on silently."""
    selector = build(make)
    early = feedback(torch.arange(BATCH_SIZE), 0)
    expect(StateError, lambda: selector.observe(early), "feedback before the first epoch")
    loader = loader_of(selector)
    selector.begin_epoch(0)
    batches = [index for _, index in loader]
    expect(StateError, lambda: selector.begin_epoch(1), "an epoch that nobody observed")
    for index in batches[:2]:
        observe_batch(selector, index, 0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        selector.begin_epoch(1)
    assert any(w.category is DataAgentWarning for w in caught), "no warning for missed batches"


def law_refuses_foreign_state(make: Make) -> None:
    """A state of another run, of a newer version or damaged raises and changes nothing."""
    selector = build(make)
    run_until(selector, 3, 2)
    state = selector.state_dict()
    foreign: Mapping[str, Any] = {
        "no state at all": {"weights": torch.ones(3)},
        "a newer version": {**state, "version": state["version"] + 1},
        "another dataset": {**state, "num_samples": NUM_SAMPLES + 1},
        "another method": {**state, "selector": "another"},
        "a damaged state": {**state, "staged_index": state["staged_index"].float()},
        "a truncated state": {k: v for k, v in state.items() if k != "staged_rows"},
    }
    for what, bad in foreign.items():
        before = state_of(selector)
        expect(CheckpointError, lambda bad=bad: selector.load_state_dict(bad), what)
        assert equal_states(before, state_of(selector)), f"{what} changed the state"


def law_survives_damaged_state(make: Make) -> None:
    """Whatever part of a state is damaged, loading it raises or works, and never half-loads."""
    source = build(make, seed=3)
    run_until(source, 4, 3)
    good = source.state_dict()
    selector = build(make, seed=3)
    before = state_of(selector)
    for what, state in damaged(good):
        try:
            selector.load_state_dict(state)
        except CheckpointError:
            assert equal_states(before, state_of(selector)), f"half-loaded with {what}"
        else:
            selector = build(make, seed=3)


LAWS: Mapping[str, Callable[[Make], None]] = {
    name.removeprefix("law_"): law for name, law in globals().items() if name.startswith("law_")
}
"""The laws by name."""
