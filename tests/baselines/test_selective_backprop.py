"""Selective backprop, and what every method does that chooses within a batch."""

import pytest
import torch

from data_agent import Feedback
from data_agent.baselines.selective_backprop import (
    HISTORY,
    SelectiveBackprop,
    selection_probability,
)
from data_agent.errors import DataAgentWarning, InputError, StateError


def build(*, num_samples=100, keep_ratio=0.5, seed=0, beta=1.0):
    return SelectiveBackprop(
        num_samples=num_samples, epochs=4, keep_ratio=keep_ratio, seed=seed, beta=beta
    )


def pool(index, losses=None):
    index = torch.as_tensor(index)
    return Feedback(index, index.float() if losses is None else torch.tensor(losses))


def train_on(selector, feedback):
    keep = selector.select_batch(feedback)
    selector.observe(Feedback(feedback.index[keep], feedback.losses[keep]))
    return keep


def test_probability_by_hand():
    past = torch.tensor([4.0, 1.0, 3.0, 2.0])
    losses = torch.tensor([0.5, 1.0, 2.5, 9.0])  # at least as high as 0, 1, 2 and 4 of the four
    expected = torch.tensor([0.2, 0.25, 0.5, 1.0])  # never below 1/5
    assert torch.allclose(selection_probability(losses, past, 1.0), expected)
    assert torch.allclose(selection_probability(losses, past, 2.0), expected**2)
    assert torch.equal(selection_probability(losses, past, 0.0), torch.ones(4))


@pytest.mark.parametrize(
    ("beta", "shares"), [(0.0, (1 / 2, 1 / 2)), (1.0, (1 / 3, 2 / 3)), (2.0, (1 / 5, 4 / 5))]
)
def test_one_of_two_is_drawn_in_proportion(beta, shares):
    """Without a history the pool is its own: P is (1/2)^beta and 1."""
    taken = torch.zeros(2)
    for seed in range(2000):
        selector = build(num_samples=2, seed=seed, beta=beta)
        selector.begin_epoch(0)
        taken += selector.select_batch(pool([0, 1], [1.0, 2.0]))
    assert taken.sum() == 2000
    # Standard error of the share: at most sqrt(1/4 / 2000) = 0.011.
    assert (taken / 2000).tolist() == pytest.approx(shares, abs=0.045)


def test_the_history_is_what_losses_are_compared_with():
    taken = torch.zeros(2)
    for seed in range(1000):
        selector = build(num_samples=6, seed=seed)
        selector.begin_epoch(0)
        train_on(selector, pool([2, 3, 4, 5], [5.0, 6.0, 7.0, 8.0]))
        taken += selector.select_batch(pool([0, 1], [5.5, 8.0]))  # P is 1/4 and 1
    assert (taken / 1000).tolist() == pytest.approx((0.2, 0.8), abs=0.06)


@pytest.mark.parametrize(("keep_ratio", "kept"), [(0.3, 31), (0.5, 52), (1.0, 103)])
@pytest.mark.parametrize("pool_size", [10, 32])
def test_an_epoch_trains_on_exactly_its_share(keep_ratio, kept, pool_size):
    selector = build(num_samples=103, keep_ratio=keep_ratio)  # 30.9, 51.5 and 103
    for epoch in selector.epochs():
        index = selector.select(epoch).index
        assert len(index) == 103
        counts = [int(train_on(selector, pool(i)).sum()) for i in index.split(pool_size)]
        assert sum(counts) == kept
        full = counts[:-1]
        assert max(full) - min(full) <= 1


def test_offering_a_pool_twice_gives_the_same_draw():
    selector = build()
    selector.begin_epoch(0)
    first = selector.select_batch(pool(torch.arange(40)))
    assert torch.equal(first, selector.select_batch(pool(torch.arange(40))))
    other = build(seed=1)
    other.begin_epoch(0)
    assert not torch.equal(first, other.select_batch(pool(torch.arange(40))))


def test_no_pool_was_offered():
    selector = build()
    selector.begin_epoch(0)
    with pytest.raises(StateError, match=r"none was offered: call .*select_batch"):
        selector.observe(pool([0, 1]))
    train_on(selector, pool([0, 1, 2, 3]))
    with pytest.raises(StateError, match="none was offered"):  # each pool is learned from once
        selector.observe(pool([0, 1]))


def test_samples_of_another_pool_are_refused():
    selector = build()
    selector.begin_epoch(0)
    selector.select_batch(pool([0, 1, 2, 3]))
    with pytest.raises(InputError, match=r"not of the pool .*index\[keep\]"):
        selector.observe(pool([1, 7]))
    assert selector.visits == 0


def test_a_pool_too_small_for_one_sample_is_refused():
    selector = build(keep_ratio=0.1)
    selector.begin_epoch(0)
    with pytest.raises(InputError, match=r"holds 2 samples.*batch_size of at least 10"):
        selector.select_batch(pool([0, 1]))


def test_a_pool_needs_an_epoch():
    with pytest.raises(StateError, match="no epoch has begun"):
        build().select_batch(pool([0, 1]))


def test_negative_selectivity_is_refused():
    with pytest.raises(InputError, match="beta is -1"):
        build(beta=-1.0)


def test_the_history_is_restored():
    selector, restored = build(), build()
    selector.begin_epoch(0)
    for index in torch.arange(60).split(20):
        train_on(selector, pool(index))
    restored.load_state_dict(selector.state_dict())
    assert torch.equal(restored.method_state()["history"], torch.arange(60.0))
    for index in torch.arange(60, 100).split(20):
        assert torch.equal(train_on(selector, pool(index)), train_on(restored, pool(index)))


def test_the_history_holds_the_last_losses_only():
    selector = build(num_samples=3000)
    selector.begin_epoch(0)
    for index in torch.arange(3000).split(500):
        train_on(selector, pool(index))
    assert torch.equal(selector.method_state()["history"], torch.arange(3000.0)[-HISTORY:])
    for history, sizes in ((torch.zeros(HISTORY + 1), [HISTORY + 1]), (torch.zeros(3), [4])):
        with pytest.raises(ValueError, match="history"):
            build(num_samples=3000).load_state_dict(
                {**selector.state_dict(), "method": {"history": history, "sizes": sizes}}
            )


@pytest.mark.parametrize("wrong", [slice(None), slice(0, 1)])
def test_other_samples_of_the_pool_than_those_chosen_are_refused(wrong):
    """The forgotten [keep] would train on everything at the price of everything."""
    selector = build()
    selector.begin_epoch(0)
    offered = pool(range(10))
    keep = selector.select_batch(offered)
    with pytest.raises(InputError, match=r"5 of the pool's 10 samples were chosen.*index\[keep\]"):
        selector.observe(Feedback(offered.index[wrong], offered.losses[wrong]))
    assert selector.visits == 0
    backwards = offered.index[keep].flip(0)  # in whatever order they come
    selector.observe(Feedback(backwards, torch.rand(5)))
    assert selector.visits == 5


def test_a_pool_is_forgotten_with_its_epoch():
    selector = build()
    selector.begin_epoch(0)
    train_on(selector, pool(range(10)))
    keep = selector.select_batch(pool(range(10, 20)))
    with pytest.warns(DataAgentWarning, match="90 of the 100 samples of epoch 0 were not trained"):
        selector.begin_epoch(1)
    with pytest.raises(StateError, match="none was offered"):
        selector.observe(Feedback(torch.arange(10, 20)[keep], torch.rand(5)))


def test_a_pool_is_forgotten_by_a_restore():
    selector = build()
    selector.begin_epoch(0)
    state = selector.state_dict()
    train_on(selector, pool(range(10)))
    keep = selector.select_batch(pool(range(10, 20)))
    selector.load_state_dict(state)
    with pytest.raises(StateError, match="none was offered"):
        selector.observe(Feedback(torch.arange(10, 20)[keep], torch.rand(5)))


def test_the_planned_cost_counts_the_forward_pass_over_every_pool():
    selector = build(keep_ratio=0.3)
    assert selector.metrics()["planned_cost"] == pytest.approx(0.3 + 1 / 3)
    assert "(plan: 30.0%, at 63.3% of its cost with scoring)" in selector.summary()
