"""The budget: exact counts, phases in visits, the stream of unselected samples."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import TensorDataset

from data_agent import DataAgent, Feedback, SelectionSchedule, Selector, selection_loader
from data_agent.budget.permutations import PermutationStream
from data_agent.errors import DataAgentWarning, InputError
from data_agent.runtime.random import Purpose
from data_agent.runtime.shards import Shard


def schedule(num_samples=100, epochs=16, keep_ratio=0.5, **options):
    return SelectionSchedule(
        num_samples=num_samples, epochs=epochs, keep_ratio=keep_ratio, **options
    )


def test_phases_of_half_the_data():
    plans = [schedule().plan(epoch) for epoch in range(16)]
    assert [p.phase for p in plans] == ["warm-up"] * 2 + ["selected"] * 12 + ["final"] * 2
    assert sum(p.num_unselected for p in plans[:2]) == 100
    assert {p.num_unselected + p.num_selected for p in plans} == {50}


def test_the_epoch_in_which_the_warm_up_ends_is_filled_with_selected_samples():
    plans = [schedule(keep_ratio=0.4).plan(epoch) for epoch in range(4)]
    assert [p.num_unselected for p in plans] == [40, 40, 20, 0]
    assert [p.num_selected for p in plans] == [0, 0, 20, 40]


def test_exploration_takes_its_share_of_selected_epochs_only():
    plans = [schedule(keep_ratio=0.4, explore=0.1).plan(epoch) for epoch in range(16)]
    assert [p.num_explored for p in plans] == [0, 0, 0] + [4] * 11 + [0, 0]
    assert {p.size for p in plans} == {40}


def test_exploration_leaves_no_sample_out_for_long():
    agent = DataAgent(num_samples=100, epochs=40, keep_ratio=0.5)
    explored = torch.zeros(100, dtype=torch.bool)
    for epoch in range(2, 22):  # 20 epochs of 5 of 100 samples
        explored |= agent._composition._taken(epoch)
    assert explored.all()


def test_three_epochs_at_half_the_data_are_one_pass_and_half_a_pass_of_the_best():
    plans = [schedule(epochs=3).plan(epoch) for epoch in range(3)]
    assert [(p.num_unselected, p.num_selected) for p in plans] == [(50, 0), (50, 0), (0, 50)]


@pytest.mark.parametrize(
    ("keep_ratio", "num_samples", "kept"),
    [(0.5, 5, 3), (0.5, 7, 4), (0.3, 10, 3), (0.001, 10, 1), (1.0, 10, 10), (1, 10, 10)],
)
def test_epoch_size_rounds_half_up_and_is_at_least_one(keep_ratio, num_samples, kept):
    assert schedule(num_samples=num_samples, keep_ratio=keep_ratio).num_kept == kept


def test_the_papers_schedule_costs_56_percent_at_ratio_half():
    paper = schedule(num_samples=1000, epochs=200, kind="paper")
    assert [paper.epoch_size(e) for e in (0, 1, 174, 175, 199)] == [1000, 500, 500, 1000, 1000]
    assert paper.total_visits / (1000 * 200) == pytest.approx(0.565)
    # 26 epochs of 8 batches of 128, 174 epochs of 4
    assert paper.total_steps(128) == 26 * 8 + 174 * 4


def test_total_steps_counts_accumulated_groups_of_each_epoch():
    # 50 samples in batches of 8 are 7 batches, in groups of 3 that is 3 optimizer steps.
    assert schedule().total_steps(8) == 16 * 7
    assert schedule().total_steps(8, accumulation=3) == 16 * 3


def test_drop_last_lowers_the_budget():
    dropped = schedule().for_loader(16, world=1, drop_last=True)
    assert dropped.num_kept == 48
    assert dropped.total_visits == 16 * 48


def test_a_rest_smaller_than_the_world_is_left_out():
    # 50 = 2 rounds of 4 ranks x 6 samples + 2: two samples cannot be shared by four ranks.
    shared = schedule().for_loader(6, world=4, drop_last=False)
    assert shared.num_kept == 48
    assert shared.num_left_out == 2  # left out, and counted
    assert [shared.rank_size(48, rank) for rank in range(4)] == [12] * 4
    # 50 = 1 round of 4 x 10 + 10, shared as 3, 3, 2, 2.
    shared = schedule().for_loader(10, world=4, drop_last=False)
    assert [shared.rank_size(50, rank) for rank in range(4)] == [13, 13, 12, 12]
    assert shared.steps(0) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"keep_ratio": 0}, r"keep_ratio is 0; expected a share of the dataset in \(0, 1\]"),
        ({"keep_ratio": 1.01}, "keep_ratio is 1.01"),
        ({"keep_ratio": float("nan")}, "keep_ratio is nan"),
        ({"keep_ratio": "half"}, "keep_ratio is 'half'"),
        ({"num_samples": 0}, "num_samples is 0; expected a whole number >= 1"),
        ({"num_samples": 10.0}, "num_samples is 10.0"),
        ({"epochs": -1}, "epochs is -1"),
        ({"explore": 1.0}, r"explore is 1.0; expected a share in \[0, 1\)"),
        (
            {"kind": "greedy"},
            "'greedy' is unknown; expected one of 'exact', .*'floating'\\.$",
        ),
        ({"kind": "unifrom"}, r"'unifrom' is unknown.* Did you mean 'uniform'\?$"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": 64, "drop_last": True}, "an epoch would be empty: 50 samples do not fill"),
    ],
)
def test_values_out_of_range_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        schedule(**arguments)


def test_what_depends_on_an_unknown_batch_size_says_what_to_do():
    with pytest.raises(InputError, match=r"Pass batch_size=, or build the loader first\.$"):
        schedule().steps(0)
    assert schedule().steps(0, batch_size=10) == schedule().for_loader(
        10, world=1, drop_last=False
    ).steps(0)


def test_an_epoch_that_does_not_exist_is_refused():
    with pytest.raises(InputError, match="epoch 16 does not exist: the schedule has 16"):
        schedule().plan(16)


def test_before_the_first_epoch_its_number_is_none_and_that_is_said():
    agent = DataAgent(num_samples=100, epochs=4)
    with pytest.raises(InputError, match=r"before its first one.*agent.select\(0\).* 3\."):
        agent.select(agent.epoch)
    assert len(agent.select(0)) == 50


def test_nothing_left_to_select_warns_and_says_what_would_help():
    with pytest.warns(DataAgentWarning, match=r"epochs >= 3 or keep_ratio > 0\.5"):
        DataAgent(num_samples=100, epochs=2, keep_ratio=0.5)
    with pytest.warns(DataAgentWarning, match="With epochs >= 3 there is"):
        DataAgent(num_samples=100, epochs=1, keep_ratio=0.5)
    DataAgent(num_samples=100, epochs=3, keep_ratio=0.5)
    DataAgent(num_samples=100, epochs=2, keep_ratio=0.51)


@settings(max_examples=150, deadline=None)
@given(
    num_samples=st.integers(1, 40),
    epochs=st.integers(1, 30),
    keep_ratio=st.floats(0.01, 1.0),
    kind=st.sampled_from(["exact", "uniform", "paper"]),
    seed=st.integers(0, 3),
)
def test_the_stream_is_fair_wherever_it_stands(num_samples, epochs, keep_ratio, kind, seed):
    plan = schedule(num_samples, epochs, keep_ratio, kind=kind)

    def new_stream():
        return PermutationStream(
            num_samples, seed, Purpose.PERMUTATION, lambda e: plan.plan(e).num_unselected
        )

    stream = new_stream()
    visits = torch.zeros(num_samples, dtype=torch.int64)
    cuts = [stream.cut(epoch) for epoch in range(epochs)]
    for epoch, cut in enumerate(cuts):
        assert cut.dtype == torch.bool
        assert int(cut.sum()) == plan.plan(epoch).num_unselected
        visits += cut
        assert visits.max() - visits.min() <= 1
    for epoch in (epochs - 1, 0, epochs // 2):  # in any order, and from scratch
        assert torch.equal(stream.cut(epoch), cuts[epoch])
        assert torch.equal(new_stream().cut(epoch), cuts[epoch])


@settings(max_examples=200, deadline=None)
@given(
    num_samples=st.integers(1, 1000),
    epochs=st.integers(1, 100),
    keep_ratio=st.floats(0.001, 1.0),
)
def test_the_exact_schedule_is_exact(num_samples, epochs, keep_ratio):
    plan = schedule(num_samples, epochs, keep_ratio)
    kept = max(1, math.floor(keep_ratio * num_samples + 0.5))
    plans = [plan.plan(epoch) for epoch in range(epochs)]
    assert all(p.num_unselected + p.num_selected == kept for p in plans)
    assert plan.total_visits == kept * epochs
    phases = [p.phase for p in plans]
    num_warm_up = min(epochs, math.ceil(num_samples / kept))  # also where the final phase would be
    num_final = min(epochs // 8, epochs - num_warm_up)
    num_selected = epochs - num_warm_up - num_final
    assert phases == ["warm-up"] * num_warm_up + ["selected"] * num_selected + ["final"] * num_final
    in_pass = sum(p.num_unselected for p in plans[:num_warm_up])
    assert min(num_samples, kept * epochs) <= in_pass < num_samples + kept


def test_a_static_schedule_chooses_every_epoch():
    static = schedule(101, keep_ratio=0.3, kind="static")
    plans = [static.plan(epoch) for epoch in range(16)]
    assert {(plan.phase, plan.num_selected, plan.num_uniform) for plan in plans} == {
        ("selected", 30, 0)
    }


def test_a_floating_schedule_bounds_what_its_method_decides():
    floating = schedule(101, keep_ratio=1, kind="floating")
    phases = [floating.plan(epoch).phase for epoch in range(16)]
    assert phases == ["warm-up", *["selected"] * 13, "final", "final"]
    assert {floating.epoch_size(epoch) for epoch in range(16)} == {101}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keep_ratio": 0.5}, "leave it at 1"),
        ({"world": 2, "batch_size": 4}, "ranks cannot share it"),
        ({"drop_last": True, "batch_size": 4}, "drop_last cannot be kept"),
    ],
)
def test_what_a_floating_schedule_cannot_do(changes, message):
    with pytest.raises(InputError, match=message):
        schedule(**{"keep_ratio": 1, "kind": "floating", **changes})


class Halving(Selector):
    """Takes half as many as it may, in a floating schedule."""

    name = "halving"
    default_schedule = "floating"

    def choose(self, epoch, count, excluded):
        return torch.arange(count // 2 if epoch % 2 else count)


def test_a_loader_follows_a_floating_schedule():
    selector = Halving(num_samples=40, epochs=8, keep_ratio=1)
    loader = selection_loader(TensorDataset(torch.arange(40)), selector, batch_size=8)
    sizes = []
    for _ in selector.epochs():
        batches = list(loader)
        assert len(loader) == len(batches)
        sizes.append(sum(len(index) for _, index in batches))
        for _, index in batches:
            selector.observe(Feedback(index, torch.rand(len(index))))
    assert sizes == [40, 20, 40, 20, 40, 20, 40, 40]


def test_a_floating_selection_is_restored():
    first = Halving(num_samples=40, epochs=8, keep_ratio=1)
    for epoch, size in ((0, 40), (1, 10)):
        first.begin_epoch(epoch)
        first.observe(Feedback(torch.arange(size), torch.rand(size)))
    second = Halving(num_samples=40, epochs=8, keep_ratio=1)
    second.load_state_dict(first.state_dict())
    assert second.epoch == 1
    assert torch.equal(second.select(1).index, torch.arange(20))


@settings(deadline=None, max_examples=200)
@given(
    num_samples=st.integers(20, 400),
    batch_size=st.integers(1, 20),
    world=st.integers(2, 7),
    keep_ratio=st.sampled_from([0.3, 0.5, 0.77, 1.0]),
    drop_last=st.booleans(),
)
def test_shards_have_all_samples_and_steps_that_ranks_have(
    num_samples, batch_size, world, keep_ratio, drop_last
):
    budget = schedule(num_samples, 5, keep_ratio, explore=0.1)
    try:
        budget = budget.for_loader(batch_size, world=world, drop_last=drop_last)
    except InputError:
        return  # an epoch would be empty
    parts = [budget.for_shard(Shard(rank, world)) for rank in range(world)]
    assert sum(part.num_samples for part in parts) == num_samples
    assert sum(part.num_kept for part in parts) == budget.num_kept
    sizes = [list(part.batch_sizes(part.num_kept, 0)) for part in parts]
    assert {len(batches) for batches in sizes} == {budget.steps(0)}
    of_ranks = [list(budget.batch_sizes(budget.num_kept, rank)) for rank in range(world)]
    assert min(map(min, sizes)) >= min(1 + (min(map(min, of_ranks)) > 1), batch_size)
    for part, batches in zip(parts, sizes, strict=True):
        assert [part.plan(epoch).size for epoch in range(5)] == [part.num_kept] * 5
        assert sum(batches) == part.num_kept
