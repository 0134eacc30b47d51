"""AFSS: how many images of each level an epoch has, and which of them."""

import pytest
import torch

from data_agent import make_selector
from data_agent.baselines.afss import AFSS, levels, parts_of, take
from data_agent.errors import InputError, StateError


def afss(num_samples=100, epochs=20, keep_ratio=0.5, **options):
    selector = make_selector(
        "afss", num_samples=num_samples, epochs=epochs, keep_ratio=keep_ratio, **options
    )
    assert isinstance(selector, AFSS)
    return selector


def test_levels_have_the_paper_s_borders():
    goodness = torch.tensor([0.0, 0.54, 0.55, 0.85, 0.86, 1.0, torch.nan])
    assert levels(goodness).tolist() == [0, 0, 1, 1, 2, 2, 0]


@pytest.mark.parametrize(
    ("sizes", "count", "expected"),
    [
        ([20, 50, 100], 42, [20, 20, 2]),  # all hard, 40 % of the moderate, 2 % of the easy
        ([20, 50, 100], 21, [10, 10, 1]),  # half of each
        ([20, 50, 100], 52, [20, 30, 2]),  # more of the moderate
        ([20, 50, 100], 100, [20, 50, 30]),  # all of them, and more of the easy
        ([100, 0, 0], 50, [50, 0, 0]),
        ([0, 0, 100], 50, [0, 0, 50]),
        ([3, 0, 0], 3, [3, 0, 0]),
        ([0, 7, 0], 1, [0, 1, 0]),
    ],
)
def test_parts_are_scaled_to_the_epoch(sizes, count, expected):
    assert parts_of(sizes, count) == expected


def test_those_due_come_first_the_oldest_of_them_and_then_the_draw():
    age = torch.tensor([0, 12, 3, 10, 1, 15])
    order = torch.tensor([0, 1, 2, 3, 4, 5])
    assert take(age, order, 3, due=10, most_due=3).tolist() == [5, 1, 3]
    assert take(age, order, 3, due=10, most_due=1).tolist() == [5, 0, 1]
    assert take(age, order, 2, due=20, most_due=2).tolist() == [0, 1]
    assert take(age, order, 0, due=0, most_due=0).tolist() == []


def test_it_is_due_before_the_first_choice_and_every_five_epochs_from_there():
    # Half of the samples an epoch: two epochs of warm-up, and then it chooses to the end.
    selector = afss()
    assert [epoch for epoch in range(25) if selector.is_due(epoch)] == [2, 7, 12, 17]
    assert [epoch for epoch in range(25) if afss(every=8).is_due(epoch)] == [2, 10, 18]
    assert not any(afss(keep_ratio=1.0).is_due(epoch) for epoch in range(20))


def train(selector, goodness):
    """Every epoch's samples; they are told how good the model is when it is due."""
    for epoch in selector.epochs():
        index = selector.select(epoch).index
        yield index
        losses = torch.ones(len(index), requires_grad=True)
        selector.learn(losses, index)
        if selector.is_due(epoch + 1):
            selector.refresh(goodness)


def test_hard_images_are_in_every_epoch_and_none_is_forgotten():
    goodness = torch.cat([torch.zeros(20), torch.full((40,), 0.7), torch.ones(140)])
    selector = afss(200, epochs=60, keep_ratio=0.25)
    visits, last = torch.zeros(200), torch.zeros(200)
    gap = torch.zeros(200)
    for epoch, index in enumerate(train(selector, goodness)):
        if epoch >= 4:  # chosen: 50 of 200, of which 38.8 are what the paper takes
            assert torch.isin(torch.arange(20), index).all()
        gap[index] = torch.maximum(gap[index], epoch - last[index])
        last[index] = epoch
        visits[index] += 1
    hard, moderate, easy = (visits[at].mean() for at in (slice(20), slice(20, 60), slice(60, 200)))
    assert hard > moderate > easy
    assert gap[20:60].max() <= 6  # of moderate images those unseen for three epochs come first
    metrics = selector.metrics()
    assert metrics["hard_share"] == pytest.approx(0.1)
    assert metrics["easy_share"] == pytest.approx(0.7)


def test_of_easy_images_at_most_half_of_the_part_is_reviewed():
    selector = afss()
    selector.refresh(torch.ones(100))
    selector.last = torch.where(torch.arange(100) < 50, 0, 19)  # half were not seen for long
    chosen = selector.choose(20, 50, torch.zeros(100, dtype=torch.bool))
    assert len(chosen.unique()) == 50
    assert 25 <= int((chosen < 50).sum()) < 45  # 25 that are due, the others as drawn


def test_a_loop_that_never_looks_is_told_so():
    selector = afss()
    for epoch in (0, 1):
        selector.begin_epoch(epoch)
        index = selector.select(epoch).index
        selector.learn(torch.ones(len(index), requires_grad=True), index)
    with pytest.raises(StateError, match=r"refresh\(\) was never called.*is_due"):
        selector.begin_epoch(2)
    assert selector.epoch == 1


@pytest.mark.parametrize(
    ("goodness", "message"),
    [
        (torch.ones(99), r"refresh\(\) got \[99\]; expected a tensor \[100\]"),
        ([1.0] * 100, r"refresh\(\) got list"),
        (torch.full((100,), 1.5), r"values from 1.5 to 1.5; expected shares in \[0, 1\]"),
        (torch.full((100,), torch.nan), r"values from nan to nan"),
    ],
)
def test_what_is_no_share_is_refused(goodness, message):
    selector = afss()
    with pytest.raises(InputError, match=message):
        selector.refresh(goodness)
    assert selector.goodness.isnan().all()


def test_a_look_every_half_epoch_is_refused():
    with pytest.raises(InputError, match="every is 0; expected a whole number of epochs"):
        afss(every=0)
