"""Anything a loop can do to a selector, in any order: it works as promised, or is refused."""

from __future__ import annotations

import copy
import math
import warnings
from functools import partial
from itertools import chain
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from ranks import join_group, run_ranks
from torch.utils.data import TensorDataset

from data_agent import (
    BatchSelector,
    DataAgent,
    DataAgentConfig,
    Feedback,
    SelectionSampler,
    Selector,
    make_selector,
    selection_loader,
)
from data_agent.errors import DataAgentError, InputError, StateError
from data_agent.testing.runs import Make, equal_states, through_a_file

pytestmark = pytest.mark.slow

QUICK = settings(
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
SMALL = DataAgentConfig(update_every=2, rollout_rows=8)


def rows(index: torch.Tensor, epoch: int, dtype: torch.dtype, **changes: Any) -> Feedback:
    """What a model could have shown: a function of sample and epoch alone."""
    draws = torch.rand(64, 10, generator=torch.Generator().manual_seed(epoch))[index]
    columns: dict[str, Any] = {
        "losses": draws[:, 0].to(dtype),
        "logits": (3 * draws[:, 1:4]).to(dtype),
        "features": draws[:, 4:].to(dtype),
        "labels": index % 3,
    }
    return Feedback(index, **{**columns, **changes})


def state_of(selector: Selector) -> dict[str, Any]:
    """Its state, less its clock."""
    return copy.deepcopy({**selector.state_dict(), "overhead_seconds": 0.0})


class Machine(RuleBasedStateMachine):
    """A selector in the hands of a loop that does whatever it likes."""

    make: Make
    saved = Bundle("saved")

    @initialize(
        num_samples=st.integers(1, 40),
        epochs=st.integers(1, 12),
        keep_ratio=st.sampled_from([0.05, 0.3, 0.5, 0.77, 1.0]),
        on_nonfinite=st.sampled_from(["raise", "skip"]),
        batch_size=st.integers(1, 9),
    )
    def build(self, on_nonfinite: str, batch_size: int, **size: Any) -> None:
        self.size, self.options = size, {"on_nonfinite": on_nonfinite}
        self.batch_size = batch_size
        try:
            self.selector, self.loader = self.fresh()
        except InputError as error:
            if "one batch of a single sample" not in str(error):
                raise
            reject()
        self.num_visits = 0
        self.todo: list[torch.Tensor] = []

    def fresh(self) -> tuple[Selector, Any]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # nothing will be selected in so few epochs
            selector = self.make(**self.size, **self.options, seed=1)
        data = TensorDataset(torch.arange(self.size["num_samples"]))
        return selector, selection_loader(data, selector, batch_size=self.pool())

    def pool(self) -> int:
        return self.batch_size

    @rule(by=st.integers(0, 2), how=st.sampled_from(["begin_epoch", "set_epoch"]))
    def begin(self, by: int, how: str) -> None:
        epoch = (-1 if self.selector.epoch is None else self.selector.epoch) + by
        before = state_of(self.selector)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an epoch without a batch, or with some missed
            try:
                getattr(self.selector, how)(epoch)
            except (InputError, StateError):
                assert equal_states(before, state_of(self.selector)), "an error changed the state"
                return
        if before["running"] is None or before["running"]["epoch"] != self.selector.epoch:
            self.todo = [index for _, index in self.loader]
            self.check_selection()
        else:
            assert equal_states(before, state_of(self.selector)), "begun twice"

    def check_selection(self) -> None:
        index = torch.cat(self.todo)
        schedule = self.selector.schedule
        kept = max(1, math.floor(schedule.keep_ratio * self.size["num_samples"] + 0.5))
        assert len(index) == len(index.unique()) == kept - schedule.num_left_out
        assert schedule.num_left_out <= 1
        assert torch.equal(index.sort().values, self.selector.select(self.selector.epoch).index)
        assert [len(i) for i in self.todo] == list(schedule.batch_sizes(len(index), 0))

    @precondition(lambda self: self.todo)
    @rule(dtype=st.sampled_from(FLOATS), labels=st.sampled_from([torch.int64, torch.int32]))
    def observe(self, dtype: torch.dtype, labels: torch.dtype) -> None:
        index = self.todo.pop(0)
        feedback = rows(index, self.selector.epoch, dtype, labels=(index % 3).to(labels))
        before = self.selector.visits
        self.hand_over(feedback)
        self.num_visits += len(index)
        assert self.selector.visits - before == len(index)

    def hand_over(self, feedback: Feedback) -> None:
        self.selector.observe(feedback)

    @precondition(lambda self: self.todo)
    @rule(value=st.sampled_from([math.nan, math.inf, -math.inf]), column=st.integers(0, 2))
    def observe_nonfinite(self, value: float, column: int) -> None:
        index = self.todo[0]
        name = ("losses", "logits", "features")[column]
        feedback = rows(index, self.selector.epoch, torch.float32)
        getattr(feedback, name)[0] = value
        before = state_of(self.selector)
        if self.options["on_nonfinite"] == "raise":
            with pytest.raises(InputError, match="non-finite"):
                self.selector.observe(feedback)
            assert equal_states(before, state_of(self.selector)), "an error changed the state"
            return
        self.selector.observe(feedback)
        self.todo.pop(0)
        self.num_visits += len(index)
        assert state_of(self.selector)["num_skipped"] == before["num_skipped"] + 1

    @rule(bad=st.sampled_from(["int32", "float", "beyond", "negative", "short", "scalar", "empty"]))
    def misuse(self, bad: str) -> None:
        index = torch.arange(min(3, self.size["num_samples"]))
        losses = torch.rand(len(index))
        index, losses = {
            "int32": (index.int(), losses),
            "float": (index.float(), losses),
            "beyond": (index + self.size["num_samples"], losses),
            "negative": (index - self.size["num_samples"] - 1, losses),
            "short": (index[1:], losses),
            "scalar": (index, losses.mean()),
            "empty": (index[:0], losses[:0]),
        }[bad]
        before = state_of(self.selector)
        with pytest.raises(DataAgentError):
            self.selector.observe(Feedback(index, losses, features=torch.rand(losses.numel(), 6)))
        assert equal_states(before, state_of(self.selector)), f"{bad} changed the state"

    @rule(target=saved)
    def save(self) -> Any:
        state = through_a_file(self.selector.state_dict())
        return state, self.num_visits, [index.clone() for index in self.todo]

    @rule(point=saved)
    def restore(self, point: Any) -> None:
        state, self.num_visits, todo = point
        before = copy.deepcopy(state)
        self.selector, self.loader = self.fresh()
        self.selector.load_state_dict(state)
        assert equal_states(before, state), "loading changed what was loaded"
        if state["running"] is not None and self.selector.epoch == state["running"]["epoch"]:
            self.todo = [index for _, index in self.loader] if todo else []
            assert list(map(torch.Tensor.tolist, self.todo)) == [i.tolist() for i in todo]
            assert equal_states({**state, "overhead_seconds": 0.0}, state_of(self.selector))
        elif state["running"] is not None:  # the epoch was over: the next one has begun
            assert self.selector.epoch == state["running"]["epoch"] + 1
            self.todo = [index for _, index in self.loader]
            self.check_selection()
        else:
            self.todo = []

    @rule(path=st.integers(0, 5), value=st.sampled_from([None, -1, "text", [], {}]))
    def restore_damaged(self, path: int, value: Any) -> None:
        state = through_a_file(self.selector.state_dict())
        state[list(state)[-1 - path]] = value
        before = state_of(self.selector)
        try:
            self.selector.load_state_dict(state)
        except DataAgentError:
            assert equal_states(before, state_of(self.selector)), "half loaded"
        else:
            self.selector.load_state_dict(before)

    @rule()
    def look(self) -> None:
        before = state_of(self.selector)
        for value in self.selector.metrics().values():
            assert isinstance(value, float)
        assert self.selector.summary()
        list(iter(self.loader))
        assert equal_states(before, state_of(self.selector)), "a reading changed the state"

    @invariant()
    def visits_add_up(self) -> None:
        if hasattr(self, "selector"):
            assert self.selector.visits == self.num_visits


class PoolMachine(Machine):
    """The same for a selector that chooses inside each batch."""

    def pool(self) -> int:
        return max(self.batch_size, math.ceil(1 / self.size["keep_ratio"]))

    def check_selection(self) -> None:
        everything = torch.cat(self.todo).sort().values
        assert torch.equal(everything, torch.arange(self.size["num_samples"]))

    def observe(self, *_: Any) -> None: ...

    def observe_nonfinite(self, *_: Any) -> None: ...

    @precondition(lambda self: self.todo)
    @rule(dtype=st.sampled_from(FLOATS), wrong=st.booleans())
    def choose_and_observe(self, dtype: torch.dtype, wrong: bool) -> None:
        assert isinstance(self.selector, BatchSelector)
        index, epoch, ratio = self.todo.pop(0), self.selector.epoch, self.size["keep_ratio"]
        keep = self.selector.select_batch(rows(index, epoch, dtype))
        assert abs(int(keep.sum()) - ratio * len(index)) <= 1
        before = state_of(self.selector)
        if wrong and not keep.all():
            with pytest.raises(InputError, match="of the pool"):
                self.selector.observe(rows(index[~keep], epoch, dtype))
            assert equal_states(before, state_of(self.selector)), "an error changed the state"
        self.selector.observe(rows(index[keep], epoch, dtype))
        self.num_visits += int(keep.sum())

    def begin(self, by: int, how: str) -> None: ...

    @rule()
    def begin_next(self) -> None:
        super().begin(1, "begin_epoch")


MACHINES = {
    "data-agent": (Machine, partial(DataAgent, config=SMALL)),
    "top-loss": (Machine, partial(make_selector, "top-loss")),
    "selective-backprop": (PoolMachine, partial(make_selector, "selective-backprop")),
    "data-agent-in-batch": (
        PoolMachine,
        partial(make_selector, "data-agent-in-batch", config=SMALL),
    ),
}


@pytest.mark.parametrize("name", MACHINES)
def test_whatever_a_loop_does_is_done_right_or_refused(name: str) -> None:
    machine, make = MACHINES[name]
    loop = type("Loop", (machine,), {"make": staticmethod(make)})
    run_state_machine_as_test(
        loop, settings=settings(QUICK, max_examples=40, stateful_step_count=30)
    )


def test_an_epoch_of_skipped_rows_is_the_same_after_a_restore() -> None:
    """Found above: the table drifted where no row was left, but not after a restore."""
    ends: list[dict[str, Any]] = []
    for is_restored in (False, True):
        agent = DataAgent(8, 8, keep_ratio=1.0, config=SMALL, on_nonfinite="skip")
        for epoch in (0, 1):
            agent.begin_epoch(epoch)
            losses = torch.full((8,), math.nan if epoch else 1.0)
            agent.observe(rows(torch.arange(8), epoch, torch.float32, losses=losses))
        if is_restored:
            state = through_a_file(agent.state_dict())
            agent = DataAgent(8, 8, keep_ratio=1.0, config=SMALL, on_nonfinite="skip")
            agent.load_state_dict(state)
        agent.begin_epoch(2)
        ends.append(state_of(agent)["method"]["table"])
    assert equal_states(*ends)


sizes = st.fixed_dictionaries(
    {
        "num_samples": st.integers(1, 60),
        "epochs": st.integers(1, 12),
        "keep_ratio": st.floats(0.01, 1.0),
        "seed": st.integers(0, 2**31),
    }
)


@pytest.mark.filterwarnings("ignore:epoch .* is the first one that begins")
@given(
    size=sizes,
    batch_size=st.integers(1, 9),
    world=st.integers(1, 8),
    drop_last=st.booleans(),
    done=st.integers(0, 5),
)
@settings(QUICK, max_examples=150)
def test_ranks_share_an_epoch_exactly_or_are_refused(
    size: dict[str, Any], batch_size: int, world: int, drop_last: bool, done: int
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ranks = [make_selector("top-loss", **size) for _ in range(world)]
    deal: dict[str, Any] = {"world": world, "drop_last": drop_last}
    try:
        samplers = [
            SelectionSampler(selector, batch_size=batch_size, rank=rank, **deal)
            for rank, selector in enumerate(ranks)
        ]
    except InputError as error:
        kept = max(1, math.floor(size["keep_ratio"] * size["num_samples"] + 0.5))
        is_single = "one batch of a single sample" in str(error)
        assert kept < (batch_size * world if drop_last else world) or is_single
        return
    for epoch in {0, size["epochs"] // 2, size["epochs"] - 1}:
        for sampler in samplers:
            sampler.selector._running = None  # every epoch a fresh look: nobody trains here
            sampler.selector.begin_epoch(epoch)
        selection = ranks[0].select(epoch).index
        shares = [list(sampler) for sampler in samplers]
        assert sorted(chain(*shares)) == selection.tolist()
        assert [len(share) for share in shares] == [len(sampler) for sampler in samplers]
        assert len({math.ceil(len(share) / batch_size) for share in shares}) == 1
        seen = [share[: done * batch_size] for share in shares]
        for sampler in samplers:
            running = sampler.selector._running
            running.done = torch.isin(
                selection, torch.tensor(list(chain(*seen)), dtype=torch.int64)
            )
            running.resume_at = int(running.done.sum())
        assert sorted(chain(*seen, *samplers)) == selection.tolist()


@given(data=st.data(), size=sizes, dtypes=st.lists(st.sampled_from(FLOATS), min_size=1))
@settings(QUICK, max_examples=60)
def test_order_batches_and_dtypes_of_feedback_do_not_matter_where_losses_rank(
    data: st.DataObject, size: dict[str, Any], dtypes: list[torch.dtype]
) -> None:
    """Losses are multiples of 1/8: the same number in every dtype."""
    size["epochs"] += 5
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain, other = (make_selector("top-loss", **size) for _ in range(2))
    for epoch in range(size["epochs"]):
        plain.begin_epoch(epoch)
        other.begin_epoch(epoch)
        index = plain.select(epoch).index
        assert torch.equal(index, other.select(epoch).index)
        losses = ((index * 7 + epoch) % 16).float() / 8
        plain.observe(Feedback(index, losses))
        shuffled = torch.tensor(data.draw(st.permutations(range(len(index)))))
        parts = shuffled.split(data.draw(st.integers(1, len(index))))
        for number, part in enumerate(parts):
            dtype = dtypes[number % len(dtypes)]
            other.observe(Feedback(index[part], losses[part].to(dtype)))
    assert equal_states(plain.method_state(), other.method_state())
    assert other.visits == plain.visits


def fuzzed_ranks(rank: int, _: None) -> list[tuple[Any, ...]]:
    """Runs of many shapes in one group; what this rank saw, and the state at the end."""
    join_group()
    draws = torch.Generator().manual_seed(7)  # the same on every rank

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=draws))

    found: list[tuple[Any, ...]] = []
    for number in range(8):
        size: dict[str, Any] = {
            "num_samples": draw(12, 50),
            "epochs": draw(3, 9),
            "keep_ratio": 0.5,
        }
        name = "data-agent" if number % 2 else "top-loss"
        options = {"config": SMALL} if number % 2 else {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            selector = make_selector(name, **size, **options)
            loader = selection_loader(
                TensorDataset(torch.arange(size["num_samples"])), selector, batch_size=draw(1, 5)
            )
        seen: list[list[int]] = []
        for epoch in selector.epochs():
            batches = [index for _, index in loader]
            for index in batches:
                selector.observe(rows(index, epoch, FLOATS[(rank + epoch) % len(FLOATS)]))
            seen.append(torch.cat(batches).tolist())
            if draw(0, 2):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    selector.load_state_dict(through_a_file(selector.state_dict()))
        found.append((seen, selector.schedule.num_kept, state_of(selector)))
    return found


@pytest.mark.distributed
def test_real_ranks_agree_whatever_the_shape(tmp_path: Any) -> None:
    first, second = run_ranks(fuzzed_ranks, tmp_path, None)
    for (mine, kept, state), (yours, _, other) in zip(first, second, strict=True):
        assert equal_states(state, other)
        for one, two in zip(mine, yours, strict=True):
            assert len(set(one) | set(two)) == len(one) + len(two) == kept
