"""The last rounds of an epoch: no batch smaller than it must be, on one rank and on several."""

import math

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from data_agent import DataAgent, SelectionSchedule
from data_agent.errors import InputError


def schedule(num_samples, batch_size, *, world=1, keep_ratio=0.5, epochs=16, **options):
    whole = SelectionSchedule(num_samples=num_samples, epochs=epochs, keep_ratio=keep_ratio)
    return whole.for_loader(batch_size, world=world, **{"drop_last": False, **options})


def sizes(plan, rank=0):
    return list(plan.batch_sizes(plan.num_kept, rank))


@pytest.mark.parametrize(
    ("num_samples", "batch_size", "expected"),
    [
        (130, 32, [32, 17, 16]),  # 65 samples; all data end in a batch of 2
        (100, 16, [16, 16, 9, 9]),  # 50; all data end in 4
        (100, 32, [32, 18]),  # a rest of 18 is larger than the 4 of all data
        (128, 32, [32, 32]),
        (500, 100, [84, 83, 83]),  # all data make full batches: as near to these as can be
        (33, 32, [17]),
    ],
)
def test_the_last_batches_share_a_rest_that_is_too_small(num_samples, batch_size, expected):
    plan = schedule(num_samples, batch_size)
    assert sizes(plan) == expected
    assert plan.num_kept == plan.raw_kept  # the budget is exact
    assert plan.steps(0) == len(expected)


def test_a_batch_of_one_stays_where_all_data_make_one():
    assert sizes(schedule(65, 32, keep_ratio=1)) == [32, 32, 1]
    assert sizes(schedule(10, 1)) == [1] * 5


def test_ranks_share_the_last_rounds():
    plan = schedule(260, 32, world=2)  # 130 samples in rounds of 64: a rest of one on each rank
    assert [sizes(plan, rank) for rank in range(2)] == [[32, 17, 16]] * 2
    plan = schedule(262, 32, world=2)  # 131
    assert [sizes(plan, rank) for rank in range(2)] == [[32, 17, 17], [32, 17, 16]]


def test_a_rest_of_one_that_cannot_be_shared_is_left_out_and_counted():
    plan = schedule(50, 2)  # 25 samples in batches of two
    assert (plan.num_kept, plan.num_left_out) == (24, 1)
    assert sizes(plan) == [2] * 12
    assert plan.total_visits == 16 * 24
    cut = schedule(66, 32, last_rounds="cut")  # 33: a loader that cuts batches itself
    assert (cut.num_kept, cut.num_left_out, sizes(cut)) == (32, 1, [32])


@pytest.mark.parametrize("remedy", [{"keep_ratio": 0.3}, {"batch_size": 1}])
def test_an_epoch_of_one_sample_is_refused_with_the_numbers(remedy):
    wrong = {"num_samples": 10, "batch_size": 5, "keep_ratio": 0.1}
    with pytest.raises(
        InputError, match=r"1 of 10 samples are kept, for batches of 5 on 1 rank\(s\)"
    ) as error:
        schedule(**wrong)
    assert "a higher keep_ratio, or batch_size=1" in str(error.value)
    schedule(**{**wrong, **remedy})


@pytest.mark.parametrize(
    "remedy", [{"batch_size": 25}, {"keep_ratio": 0.7}, {"drop_last": False}], ids=str
)
def test_remedies_for_an_empty_epoch_work(remedy):
    wrong = {"num_samples": 100, "batch_size": 64, "drop_last": True}
    with pytest.raises(InputError, match=r"Use a smaller batch_size, a higher keep_ratio, or drop"):
        schedule(**wrong)
    schedule(**{**wrong, **remedy})


def test_repeats_that_fill_a_round_are_in_the_plan():
    # 30 samples in rounds of 2 x 16: two come twice, 53.3 % where 50 % were asked for.
    filled = schedule(60, 16, world=2, last_rounds="filled")
    assert (filled.num_kept, filled.num_repeated(30)) == (30, 2)
    assert filled.total_visits / (60 * 16) == pytest.approx(0.5333, abs=1e-4)
    agent = DataAgent(num_samples=60, epochs=16, keep_ratio=0.5)
    agent.use_loader(16, world=2, last_rounds="filled")
    assert agent.metrics()["planned_cost"] == pytest.approx(0.5333, abs=1e-4)
    assert "plan: 53.3%" in agent.summary()
    spread = schedule(60, 16, world=2)
    assert spread.total_visits == 16 * 30
    assert spread.num_repeated(30) == 0


@settings(max_examples=300, deadline=None)
@given(
    num_samples=st.integers(1, 400),
    batch_size=st.integers(1, 40),
    world=st.integers(1, 4),
    keep_ratio=st.floats(0.01, 1.0),
    last_rounds=st.sampled_from(["spread", "cut", "filled"]),
    drop_last=st.booleans(),
)
def test_rounds_hold_the_epoch_and_are_the_same_wherever_it_goes_on(
    num_samples, batch_size, world, keep_ratio, last_rounds, drop_last
):
    options = {"last_rounds": last_rounds, "drop_last": drop_last, "keep_ratio": keep_ratio}
    try:
        plan = schedule(num_samples, batch_size, world=world, **options)
    except InputError:
        assume(False)
        raise
    kept, round_size = plan.num_kept, batch_size * world
    num_full, last = plan.rounds(kept)
    rounds = [round_size] * num_full + last
    assert sum(rounds) == kept
    assert len(rounds) == plan.steps(0)
    assert plan.batches_in(kept, kept) == (len(rounds), True)
    shares = [sizes(plan, rank) for rank in range(world)]
    assert [sum(share) for share in shares] == [plan.rank_size(kept, r) for r in range(world)]
    assert max(map(sum, shares)) - min(map(sum, shares)) <= 1
    assert max(map(max, shares)) <= batch_size
    place = 0
    for number, size in enumerate(rounds):
        assert plan.loadable(kept - place) == kept - place
        assert plan.next_round(kept - place) == size
        assert plan.batches_in(place, kept) == (number, True)
        assert [*plan.batch_sizes(kept - place, 0)] == shares[0][number:]
        place += size
    smallest = min(map(min, shares))
    of_all = (math.ceil(num_samples / world) - 1) % batch_size + 1
    if last_rounds == "spread":
        assert smallest >= min(of_all, kept // world // len(rounds))
    if last_rounds != "filled":
        assert smallest > 1 or of_all == 1
