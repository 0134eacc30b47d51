"""The laws of methods that choose prompts: `check_prompt_agent(make)`, and one function each."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_agent.errors import CheckpointError, InputError, StateError
from data_agent.prompts.selector import PromptSelector
from data_agent.testing.runs import damaged, equal_states, expect, through_a_file

MakePrompts = Callable[..., PromptSelector]
"""Builds a method from num_prompts=, generations=, batch= and seed=."""

NUM_PROMPTS, GENERATIONS, BATCH, BATCHES, WIDTH = 50, 4, 6, 24, 5


def check_prompt_agent(make: MakePrompts) -> None:
    """Run every law on the method that `make` builds.

    Args:
        make: called as `make(num_prompts=..., generations=..., batch=..., seed=...)`; must return a
            new one each time.

    Raises:
        AssertionError: a law is broken; the message names it.
    """
    for law in PROMPT_LAWS.values():
        law(make)


def law_exact_batches(make: MakePrompts) -> None:
    """Candidates are M distinct prompts; a batch is k distinct ones of them, ascending."""
    method = build(make)
    for _ in range(BATCHES):
        index = method.candidates()
        assert index.dtype == torch.int64, f"candidates are {index.dtype}"
        assert len(index.unique()) == method.num_candidates, "candidates repeat, or miss some"
        chosen = cycle(method)
        assert chosen.dtype == torch.int64, f"the choice is {chosen.dtype}"
        assert len(chosen) == BATCH, f"{len(chosen)} prompts instead of {BATCH}"
        assert bool((chosen[1:] > chosen[:-1]).all()), "the choice is not ascending and distinct"
        assert bool(torch.isin(chosen, index).all()), "the choice is not among the candidates"


def law_coverage(make: MakePrompts) -> None:
    """Every prompt is chosen in time where the method explores, and else looked at in time."""
    method = build(make)
    seen = torch.zeros(NUM_PROMPTS, dtype=torch.bool)
    each_time = method.num_explored or method.num_candidates
    for _ in range(-(-NUM_PROMPTS // each_time)):
        index = method.candidates()
        chosen = cycle(method)
        seen[chosen if method.num_explored else index] = True
    assert bool(seen.all()), f"{int((~seen).sum())} prompts were left out"


def law_same_seed_same_choice(make: MakePrompts) -> None:
    """The same rewards and seed give the same batches; another seed gives others."""
    first, again, other = (run(build(make, seed=seed)) for seed in (5, 5, 6))
    assert equal_states(first, again), "two runs with one seed differ"
    assert not equal_states(first, other), "another seed gives the same batches"


def law_candidates_are_pure(make: MakePrompts) -> None:
    """candidates() changes nothing, asked as often as one likes."""
    method = build(make)
    for _ in range(3):
        before = state_of(method)
        first = method.candidates()
        assert torch.equal(first, method.candidates()), "asking twice gives other candidates"
        assert equal_states(before, state_of(method)), "candidates() changed the state"
        cycle(method)


def law_no_global_randomness(make: MakePrompts) -> None:
    """Nobody's random state is touched: torch's, NumPy's and Python's generators stand still."""
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    run(build(make))
    assert torch.equal(before[0], torch.get_rng_state()), "torch's global generator moved"
    after = np.random.get_state()  # noqa: NPY002
    assert repr(before[1]) == repr(after), "NumPy's global generator moved"
    assert before[2] == random.getstate(), "Python's global generator moved"


def law_resume(make: MakePrompts) -> None:
    """Saved anywhere, also between a choice and its rewards, the rest is the same to the bit."""
    whole = build(make, seed=3)
    batches = run(whole)
    for stop in (0, 1, 7, BATCHES - 1):
        for is_chosen in (False, True):
            method = build(make, seed=3)
            run(method, stop)
            if is_chosen:
                choose(method)
            restored = build(make, seed=3)
            restored.load_state_dict(through_a_file(method.state_dict()))
            rest = run(restored, BATCHES - stop)
            where = f"resumed at batch {stop}{', already chosen' if is_chosen else ''}"
            assert equal_states(rest, batches[stop:]), f"{where}: other batches"
            assert equal_states(state_of(whole), state_of(restored)), f"{where}: another end"


def law_unknown_rewards_teach_nothing(make: MakePrompts) -> None:
    """Groups without rewards count as visits; nothing is known of them, and nothing breaks."""
    method = build(make)
    for _ in range(4):
        chosen = choose(method)
        method.learn(chosen, torch.full((BATCH, GENERATIONS), torch.nan))
    table = method.table()
    assert table["visits"].sum() == 4 * BATCH, "visits were not counted"
    assert np.isnan(table["success"]).all(), "success is known of groups without rewards"
    run(method, 4)


def law_refuses_bad_input(make: MakePrompts) -> None:
    """Bad candidates, features and rewards raise at once and leave the state as it was."""
    method = build(make)
    cycle(method)
    index = method.candidates()
    features = features_of(index)
    nan = features.clone()
    nan[0, 0] = torch.nan
    bad_choices: Mapping[str, tuple[Any, Any]] = {
        "a prompt beyond the data set": (index + NUM_PROMPTS, features),
        "a negative index": (index - NUM_PROMPTS, features),
        "an index in int32": (index.int(), features),
        "a prompt twice": (torch.cat([index[:1], index[:-1]]), features),
        "too few candidates": (index[: BATCH - 1], features[: BATCH - 1]),
        "features of other candidates": (index, features[1:]),
        "features in integers": (index, features.long()),
        "features that are not finite": (index, nan),
    }
    before = state_of(method)
    for what, arguments in bad_choices.items():
        expect(InputError, lambda arguments=arguments: method.choose(*arguments), what)
        assert equal_states(before, state_of(method)), f"{what} changed the state"
    chosen = choose(method)
    rewards = rewards_of(chosen, 1)
    bad_rewards: Mapping[str, tuple[Any, Any]] = {
        "rewards of other prompts": ((chosen + 1) % NUM_PROMPTS, rewards),
        "rewards of some prompts": (chosen[1:], rewards[1:]),
        "rewards of another size": (chosen, rewards[:, 1:]),
        "one reward a prompt": (chosen, rewards[:, 0]),
        "rewards in integers": (chosen, rewards.long()),
        "infinite rewards": (chosen, rewards / 0),
    }
    before = state_of(method)
    for what, arguments in bad_rewards.items():
        expect(InputError, lambda arguments=arguments: method.learn(*arguments), what)
        assert equal_states(before, state_of(method)), f"{what} changed the state"


def law_forgotten_calls_are_errors(make: MakePrompts) -> None:
    """Learning before a choice, or choosing twice, does not go on silently."""
    method = build(make)
    some = torch.arange(BATCH)
    expect(StateError, lambda: method.learn(some, rewards_of(some, 0)), "learn() before choose()")
    choose(method)
    expect(StateError, lambda: choose(method), "a choice that nothing was learned from")


def law_refuses_foreign_state(make: MakePrompts) -> None:
    """A state of another run or version, or a damaged one, raises or works; none half-loads."""
    source = build(make, seed=3)
    run(source, 9)
    choose(source)
    good = source.state_dict()
    foreign: Mapping[str, Any] = {
        "no state at all": {"weights": torch.ones(3)},
        "a newer version": {**good, "version": good["version"] + 1},
        "another data set": {**good, "num_prompts": NUM_PROMPTS + 1},
        "another method": {**good, "selector": "another"},
        "another batch": {**good, "batch": BATCH + 1},
    }
    for what, bad in foreign.items():
        method = build(make, seed=3)
        expect(CheckpointError, lambda m=method, bad=bad: m.load_state_dict(bad), what)
        assert equal_states(state_of(build(make, seed=3)), state_of(method)), f"{what}: half-loaded"
    for what, state in damaged(good):
        method = build(make, seed=3)
        before = state_of(method)
        try:
            method.load_state_dict(state)
        except CheckpointError:
            assert equal_states(before, state_of(method)), f"half-loaded with {what}"


def build(make: MakePrompts, *, seed: int = 0) -> PromptSelector:
    """A new method of the size that the laws use."""
    return make(num_prompts=NUM_PROMPTS, generations=GENERATIONS, batch=BATCH, seed=seed)


def features_of(index: Tensor) -> Tensor:
    """float32 `[M, 5]`, a function of the prompt alone."""
    draws = torch.randn(NUM_PROMPTS, WIDTH, generator=torch.Generator().manual_seed(0))
    draws[:, 0] = torch.arange(NUM_PROMPTS) / NUM_PROMPTS
    return draws[index]


def rewards_of(index: Tensor, step: int) -> Tensor:
    """0 and 1 `[k, G]`, a function of prompt and step; the first prompts never succeed."""
    draws = torch.rand(NUM_PROMPTS, GENERATIONS, generator=torch.Generator().manual_seed(step))
    chance = (torch.arange(NUM_PROMPTS) / NUM_PROMPTS * 1.5 - 0.25).unsqueeze(1)
    return (draws < chance).float()[index]


def choose(method: PromptSelector) -> Tensor:
    """Choose the next batch of the candidates."""
    index = method.candidates()
    return method.choose(index, features_of(index))


def cycle(method: PromptSelector) -> Tensor:
    """Choose a batch, if that is still to be done, and learn from it; the batch."""
    chosen = choose(method) if method.choice is None else method.choice.index
    method.learn(chosen, rewards_of(chosen, method.step))
    return chosen


def run(method: PromptSelector, batches: int = BATCHES) -> list[Tensor]:
    """So many batches."""
    return [cycle(method) for _ in range(batches)]


def state_of(method: PromptSelector) -> dict[str, Any]:
    """A copy of the method's state."""
    return copy.deepcopy(method.state_dict())


PROMPT_LAWS: Mapping[str, Callable[[MakePrompts], None]] = {
    name.removeprefix("law_"): law for name, law in globals().items() if name.startswith("law_")
}
"""The laws by name."""
