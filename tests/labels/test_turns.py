"""Whose turn it is."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data_agent.errors import CheckpointError
from data_agent.labels.classes import Classes
from data_agent.labels.turns import Turns
from data_agent.runtime.topk import highest_of_each


def epochs(turns, classes, quota, count, *, barred=()):
    """Let each class give its quota in each of `count` epochs; yields who came."""
    nobody = torch.zeros(turns._num_samples, dtype=torch.bool)
    for epoch in range(count):
        among = nobody.logical_not()
        among[list(barred[epoch]) if barred else []] = False
        taken = highest_of_each(
            turns.waiting(), quota, tie_seed=turns.order_seed, group=classes.number, among=among
        )
        turns.take(taken, taken.clone(), ~among, classes)
        yield taken


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=4), st.integers(0, 50), st.data())
def test_visits_in_a_class_differ_by_at_most_one_from_any_epoch_on(sizes, seed, data):
    label = torch.arange(len(sizes), dtype=torch.int16).repeat_interleave(torch.tensor(sizes))
    quota = [0, *(data.draw(st.integers(1, size)) for size in sizes)]
    turns = Turns(len(label), seed)
    came = torch.stack(list(epochs(turns, Classes(label), torch.tensor(quota), 12))).long()
    for start in range(12):
        visits = came[start:].cumsum(0)
        for number in range(len(sizes)):
            of_class = visits[:, label == number]
            assert (of_class.amax(1) - of_class.amin(1)).max() <= 1


def test_who_could_not_come_has_no_turns_to_catch_up_on():
    """Else an epoch would be made of those whom all epochs before rejected."""
    label, some = torch.zeros(40, dtype=torch.int16), set(range(20))
    barred = [some] * 21 + [set()] * 12
    came = torch.stack(
        list(epochs(Turns(40, 0), Classes(label), torch.tensor([0, 10]), 33, barred=barred))
    )
    assert not came[:21, :20].any()
    assert came[21, 20:].sum() == 10  # the other half of their round
    visits = came[21:].sum(0)
    assert visits.min() >= 2  # four epochs a round
    assert visits.max() <= 4


def test_before_the_first_turn_there_is_nothing_and_then_a_bit_a_sample():
    turns = Turns(1000, 0)
    assert turns.waiting().all()
    assert turns.state_dict() == {"had": None}
    taken = torch.arange(1000) < 500
    turns.take(taken, taken.clone(), None, None)
    assert torch.equal(turns.waiting(), ~taken)
    state = turns.state_dict()
    assert state["had"].nbytes == 125
    restored = Turns(1000, 0)
    restored.load_state_dict(state)
    assert torch.equal(restored.waiting(), turns.waiting())
    with pytest.raises(CheckpointError, match="cannot be 125 bytes"):
        Turns(1001, 0).load_state_dict(state)
    turns.begin_anew()
    assert turns.waiting().all()
