"""UCB and eps-greedy: moving averages by hand, and which samples they take."""

import pytest
import torch

from data_agent import Feedback
from data_agent.baselines.eps_greedy import EpsGreedy
from data_agent.baselines.moving import moved
from data_agent.baselines.ucb import UCB, upper_bound
from data_agent.errors import InputError

NOBODY = torch.zeros(10, dtype=torch.bool)


def build(method, *, num_samples=10, epochs=16, keep_ratio=0.5, **options):
    return method(num_samples=num_samples, epochs=epochs, keep_ratio=keep_ratio, **options)


def test_moving_averages_by_hand():
    mean, variance = torch.tensor([torch.inf]), torch.zeros(1)
    expected = [(2.0, 2.0, 0.0), (3.0, 2.8, 0.8), (1.8, 2.0, 0.96)]
    for loss, new_mean, new_variance in expected:
        # 0.2 * 2 + 0.8 * 3 = 2.8, 0.8 * 1^2 = 0.8; 2.8 - 0.8 = 2.0, 0.2 * 0.8 + 0.8 * 1^2 = 0.96
        mean, variance = moved(mean, variance, torch.tensor([loss]), 0.8)
        assert mean.tolist() == pytest.approx([new_mean])
        assert variance.tolist() == pytest.approx([new_variance])
    assert upper_bound(mean, variance, 0.5).tolist() == pytest.approx([2.48])


def test_only_what_was_visited_moves():
    selector = build(UCB, num_samples=4)
    selector.merge(torch.tensor([0, 2]), torch.tensor([[1.0], [3.0]]))
    selector.merge(torch.tensor([2]), torch.tensor([[4.0]]))
    assert selector.mean.tolist() == pytest.approx([1.0, torch.inf, 3.8, torch.inf])
    assert selector.variance.tolist() == pytest.approx([0, 0, 0.8, 0])


def test_ucb_takes_high_and_uncertain_losses():
    selector = build(UCB)
    selector.mean = torch.tensor([1.0, 2.0, 3.0, 4.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    selector.variance = torch.tensor([5.0, 0.0, 0.0, 0.0, 2.5, 0.0, 0.0, 0.0, 0.0, 0.0])
    # Bounds 6, 2, 3, 4, 2.5 and zeros.
    assert selector.choose(9, 4, NOBODY).tolist() == [0, 2, 3, 4]
    excluded = torch.arange(10) == 0
    assert selector.choose(9, 2, excluded).tolist() == [2, 3]
    plain = build(UCB, confidence=0.0)
    plain.mean, plain.variance = selector.mean, selector.variance
    assert plain.choose(9, 3, NOBODY).tolist() == [1, 2, 3]


def test_eps_greedy_takes_the_highest_and_draws_the_rest():
    selector = build(EpsGreedy, epsilon=0.4)
    selector.mean = torch.arange(10.0)
    drawn = set()
    for epoch in range(30):
        chosen = selector.choose(epoch, 5, NOBODY).tolist()
        assert set(chosen[:3]) == {7, 8, 9}  # 5 - floor(0.4 * 5)
        assert len(set(chosen)) == 5
        drawn |= set(chosen[3:])
        assert torch.equal(selector.choose(epoch, 5, NOBODY), torch.tensor(chosen))
    assert drawn == set(range(7))
    excluded = torch.arange(10) >= 8
    assert set(selector.choose(0, 5, excluded)[:3].tolist()) == {5, 6, 7}


@pytest.mark.parametrize(("epsilon", "greedy"), [(0.0, 5), (1.0, 0), (0.1, 5)])
def test_eps_greedy_rounds_the_drawn_share_down(epsilon, greedy):
    selector = build(EpsGreedy, epsilon=epsilon)
    selector.mean = torch.arange(10.0)
    chosen = selector.choose(3, 5, NOBODY).tolist()
    assert len(set(chosen)) == 5
    assert chosen[:greedy] == [5, 6, 7, 8, 9][:greedy]


@pytest.mark.parametrize("method", [UCB, EpsGreedy])
def test_they_learn_from_the_visits_themselves(method):
    selector = build(method, num_samples=40)
    losses = torch.arange(40.0)
    for epoch in range(2):  # the warm-up
        selector.begin_epoch(epoch)
        index = selector.select(epoch).index
        selector.observe(Feedback(index, losses[index]))
    selector.begin_epoch(2)
    chosen = set(selector.select(2).index.tolist())
    assert set(range(22, 40)) <= chosen


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        (UCB, {"alpha": 0.0}, r"alpha is 0.0; expected a weight in \(0, 1\]"),
        (EpsGreedy, {"alpha": 1.5}, "alpha is 1.5"),
        (UCB, {"confidence": -1.0}, "confidence is -1.0; expected 0 or more"),
        (EpsGreedy, {"epsilon": 1.1}, r"epsilon is 1.1; expected a share in \[0, 1\]"),
    ],
)
def test_values_out_of_range_are_refused(method, options, message):
    with pytest.raises(InputError, match=message):
        build(method, **options)
