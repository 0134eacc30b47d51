"""Visits spread over near-duplicates: equal shares of groups, members by turns, else `random`."""

import pytest
import torch
from torch import Tensor

from data_agent import make_selector
from data_agent.baselines.spread_over_duplicates import numbered_by_first, places_in_groups
from data_agent.errors import CheckpointError, InputError

GROUPS = torch.tensor([3, 9, 3, 3, 7, 3, 8, 9, 3, 3])  # six of 3, two of 9, a 7 and an 8


def build(
    groups: Tensor | None = GROUPS, *, keep_ratio=0.6, method="spread-over-duplicates", **options
):
    options = {"groups": groups, **options} if groups is not None else options
    base = {"epochs": 24, "seed": 3, "keep_ratio": keep_ratio}
    return make_selector(method, num_samples=options.pop("size", 10), **base, **options)


def visits_of(selector, epochs=24):
    visits = torch.zeros(selector.schedule.num_samples, dtype=torch.int64)
    for epoch in range(epochs):
        visits[selector.select(epoch).index] += 1
    return visits


def test_groups_rise_to_one_level():
    selector = build()
    for epoch in range(24):
        counts = torch.bincount(GROUPS[selector.select(epoch).index], minlength=10)
        assert counts[[3, 9, 7, 8]].tolist() == [2, 2, 1, 1]


def test_members_of_a_group_take_turns():
    visits = visits_of(build())
    assert visits[GROUPS == 3].tolist() == [8] * 6  # 24 epochs, two of six in each
    assert visits[GROUPS != 3].tolist() == [24] * 4
    for epochs in range(1, 24):
        of_group = visits_of(build(), epochs)[GROUPS == 3]
        assert of_group.max() - of_group.min() <= 1


def test_single_samples_that_are_left_over_go_by_turns_of_the_groups():
    selector = build(keep_ratio=0.3)  # three an epoch, four groups
    given = torch.zeros(10, dtype=torch.int64)
    for epoch in range(24):
        given += torch.bincount(GROUPS[selector.select(epoch).index], minlength=10)
        shares = given[[3, 9, 7, 8]]
        assert shares.max() - shares.min() <= 1
        assert visits_of(build(keep_ratio=0.3), epoch + 1)[GROUPS == 3].max() <= 4
    assert shares.tolist() == [18] * 4


@pytest.mark.parametrize("keep_ratio", [0.2, 0.5, 0.7])
def test_without_near_duplicates_it_is_random_sample_by_sample(keep_ratio):
    groups = torch.randperm(41, generator=torch.Generator().manual_seed(0))
    spread = build(groups, size=41, keep_ratio=keep_ratio)
    uniform = build(None, size=41, keep_ratio=keep_ratio, method="random")
    for epoch in range(24):
        assert torch.equal(spread.select(epoch).index, uniform.select(epoch).index)


def test_trusted_rows_count_for_their_group():
    selector = build(trusted=[0, 1])
    counts = torch.bincount(GROUPS[selector.select(5).index], minlength=10)
    assert counts[[3, 9, 7, 8]].tolist() == [2, 2, 1, 1]


def test_the_order_of_a_group_is_random_and_of_its_open_members():
    group = torch.tensor([0, 1, 0, 0, 1])
    is_open = torch.tensor([True, True, True, False, True])
    places = places_in_groups(group, is_open, seed=0)
    assert places[3] == -1
    assert sorted(places[[0, 2]].tolist()) == sorted(places[[1, 4]].tolist()) == [0, 1]
    orders = {tuple(places_in_groups(group, is_open, seed=s).tolist()) for s in range(20)}
    assert len(orders) == 4


def test_groups_are_numbered_by_their_first_members():
    assert numbered_by_first(GROUPS).tolist() == [0, 1, 0, 0, 2, 0, 3, 1, 0, 0]


def test_what_it_needs_is_named_and_checked():
    with pytest.raises(InputError, match=r"needs groups=\[N\]"):
        build(None)
    with pytest.raises(InputError, match=r"groups came as torch.float32; expected torch.int64"):
        build(GROUPS.float())


def test_a_state_of_other_groups_is_refused():
    with pytest.raises(CheckpointError, match="settings was"):
        build(GROUPS.flip(0)).load_state_dict(build().state_dict())


def test_it_says_how_many_groups_there_are():
    assert build().describe() == "method spread-over-duplicates; 10 samples, 4 groups"
