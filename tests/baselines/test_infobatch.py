"""InfoBatch: who is pruned, the weights by hand, and that they leave sums unbiased."""

import pytest
import torch

from data_agent import Feedback, make_selector
from data_agent.baselines.infobatch import (
    InfoBatch,
    InfoBatchPublished,
    below_mean,
    pruning_pool,
    rescaling,
)
from data_agent.errors import InputError

NOBODY = torch.zeros(8, dtype=torch.bool)


def build(method=InfoBatch, *, num_samples=8, epochs=16, keep_ratio=0.5):
    return method(num_samples=num_samples, epochs=epochs, keep_ratio=keep_ratio)


def with_scores(scores, *, keep_ratio=0.5):
    selector = build(num_samples=len(scores), keep_ratio=keep_ratio)
    selector.scores = torch.tensor(scores)
    return selector


def test_below_the_mean():
    scores = torch.tensor([0.0, 1.0, 2.0, 5.0])  # mean 2
    assert below_mean(scores).tolist() == [True, True, False, False]
    unseen = torch.tensor([0.0, 1.0, torch.inf])  # mean 0.5 of those that were visited
    assert below_mean(unseen).tolist() == [True, False, False]
    assert not below_mean(torch.full((3,), 0.1)).any()
    assert not below_mean(torch.full((3,), torch.inf)).any()


def test_the_pool_is_those_below_the_mean_if_they_are_enough():
    scores = torch.tensor([0.0, 0, 0, 0, 0, 0, 4, 4])  # mean 1, six below
    for num_pruned in (0, 1, 4):  # at most 0.75 * 6 = 4.5
        pool = pruning_pool(scores, num_pruned, excluded=NOBODY, tie_seed=0)
        assert pool.tolist() == [True] * 6 + [False] * 2
    pool = pruning_pool(scores, 5, excluded=NOBODY, tie_seed=0)  # 5 / 0.75 = 6.7: seven
    assert int(pool.sum()) == 7
    assert pool[:6].all()


def test_else_the_lowest_scores():
    scores = torch.tensor([7.0, 6, 5, 4, 3, 2, 1, 0])  # mean 3.5, four below
    pool = pruning_pool(scores, 4, excluded=NOBODY, tie_seed=0)  # 4 / 0.75 = 5.3: six
    assert pool.tolist() == [False] * 2 + [True] * 6
    assert pruning_pool(scores, 7, excluded=NOBODY, tie_seed=0).all()  # no more than everybody
    excluded = scores == 0
    pool = pruning_pool(scores, 4, excluded=excluded, tie_seed=0)
    assert pool.tolist() == [False] + [True] * 6 + [False]


def test_rescaling_by_hand():
    pool = torch.tensor([True, False])
    assert rescaling(pool, 0.5).tolist() == [2, 1]
    assert rescaling(pool, 0.75).tolist() == [4, 1]


def test_a_table_by_hand():
    """r = 4/6, so two of the six stay with weight 3; divided by the mean, (2 * 3 + 2) / 4 = 2."""
    selector = with_scores([0.0, 0, 0, 0, 0, 0, 4, 4])
    drawn = set()
    for epoch in range(200):
        index = selector.choose(epoch, 4, NOBODY)
        assert index[2:].tolist() == [6, 7]
        assert selector.weigh(epoch, index, NOBODY).tolist() == [1.5, 1.5, 0.5, 0.5]
        drawn.add(tuple(index[:2].tolist()))
    assert len(drawn) == 15  # every pair of six


def test_at_a_quarter_it_is_a_uniform_draw():
    selector = with_scores([0.0, 1, 2, 3, 4, 5, 6, 7], keep_ratio=0.25)
    index = selector.choose(9, 2, NOBODY)
    assert selector.weigh(9, index, NOBODY).tolist() == [1, 1]


def test_unselected_samples_of_a_warm_up_epoch_weigh_one():
    selector = with_scores([0.0, 0, 0, 0, 0, 0, 4, 4])
    excluded = torch.tensor([True, True, False, False, False, False, False, False])
    index = selector.choose(1, 3, excluded)  # three of six: prune 3 of the 4 below the mean, r 3/4
    assert index[1:].tolist() == [6, 7]
    everybody = torch.cat([torch.tensor([0, 1]), index])
    # 4, 1, 1 with mean 2, beside two ones
    assert selector.weigh(1, everybody, excluded).tolist() == [1, 1, 2, 0.5, 0.5]


def test_nothing_pruned_is_no_weights():
    selector = with_scores([0.0, 1, 2, 3, 4, 5, 6, 7], keep_ratio=1.0)
    assert len(selector.choose(3, 8, NOBODY)) == 8
    assert selector.weigh(3, torch.arange(8), NOBODY) is None


@pytest.mark.parametrize("keep_ratio", [0.25, 0.5, 0.75])
def test_the_weighted_mean_is_that_of_all_samples(keep_ratio):
    draws = torch.Generator().manual_seed(0)
    losses = torch.rand(40, generator=draws) ** 3
    gradients = torch.randn(40, generator=draws) + losses  # what is summed goes with the loss
    selector = with_scores(losses.tolist(), keep_ratio=keep_ratio)
    nobody = torch.zeros(40, dtype=torch.bool)
    means, plain = [], []
    for epoch in range(1500):
        index = selector.choose(epoch, round(40 * keep_ratio), nobody)
        weights = selector.weigh(epoch, index, nobody)
        assert weights is not None
        means.append(float((weights * gradients[index]).mean()))
        plain.append(float(gradients[index].mean()))
    error = torch.tensor(means).std() / 1500**0.5
    assert abs(sum(means) / 1500 - gradients.mean()) < 4 * error
    if keep_ratio > 0.25:  # without the weights the hard samples count for too much
        assert abs(sum(plain) / 1500 - gradients.mean()) > 4 * error


def losses_of(index, num_samples=10):
    return torch.arange(float(num_samples))[index]


def run(selector):
    for epoch in selector.epochs():
        selection = selector.select(epoch)
        yield epoch, selection
        selector.observe(Feedback(selection.index, losses_of(selection.index)))


def test_the_exact_form_keeps_the_budget_and_weighs_only_what_it_chose():
    for epoch, selection in run(build(num_samples=10, epochs=16, keep_ratio=0.6)):
        assert len(selection) == 6
        if epoch in (0, 14, 15):  # 10 visits of warm-up end in epoch 1; two final epochs
            assert selection.weights is None
        else:
            assert float(selection.weights.mean()) == pytest.approx(1)
            assert epoch == 1 or float(selection.weights.max()) > 1


def test_scores_of_pruned_samples_stay():
    selector = build(InfoBatchPublished, num_samples=10)
    last_visit = torch.zeros(10)
    for epoch in (0, 1, 2):
        selector.begin_epoch(epoch)
        index = selector.select(epoch).index
        last_visit[index] = epoch / 100
        selector.observe(Feedback(index, losses_of(index) + epoch / 100))
    selector.begin_epoch(3)
    assert torch.allclose(selector.scores, torch.arange(10.0) + last_visit)
    assert len(last_visit[:5].unique()) > 1


def test_the_published_form():
    """Losses 0 to 9: five are below 4.5, floor(5 / 2) stay, weight 2; not divided by the mean."""
    pruned = set()
    for epoch, selection in run(build(InfoBatchPublished, num_samples=10, keep_ratio=0.3)):
        if epoch in (0, 14, 15):
            assert len(selection) == 10
            assert selection.weights is None  # also where 0.875 E is not whole, see below
            continue
        assert len(selection) == 7
        assert selection.index[2:].tolist() == [5, 6, 7, 8, 9]
        assert selection.weights.tolist() == [2, 2, 1, 1, 1, 1, 1]
        pruned |= set(range(10)) - set(selection.index.tolist())
    assert pruned == {0, 1, 2, 3, 4}


def test_the_published_form_ends_unweighted_for_any_number_of_epochs():
    selector = build(InfoBatchPublished, num_samples=10, epochs=10)  # 0.875 * 10 = 8.75
    weighted = [selection.weights is not None for _, selection in run(selector)]
    assert weighted == [False] + [True] * 8 + [False]


def test_the_published_form_has_one_schedule():
    with pytest.raises(InputError, match="schedule"):
        make_selector(
            "infobatch-published", num_samples=8, epochs=9, keep_ratio=1, schedule="exact"
        )
