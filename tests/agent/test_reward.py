"""The reward's equations against numbers computed by hand."""

import math

import pytest
import torch

from data_agent import Feedback
from data_agent.agent.reward import (
    adaptive_weights,
    centred_reward,
    difficulty,
    multiplier_step,
    paper_reward,
    uncertainty,
    utility,
)
from data_agent.errors import InputError


def feedback(losses, **columns):
    losses = torch.as_tensor(losses)
    return Feedback(torch.arange(len(losses)), losses, **columns)


def test_difficulty_clips_at_the_95_percent_quantile_and_scales():
    # Sorted 0, 1, 2, 3, 100: the 95 % quantile lies at position 0.95 * 4 = 3.8, that is
    # 3 + 0.8 * (100 - 3) = 80.6; scaled by the range [0, 80.6].
    d = difficulty(feedback([1.0, 0.0, 100.0, 2.0, 3.0]))
    expected = torch.tensor([1 / 80.6, 0.0, 1.0, 2 / 80.6, 3 / 80.6])
    torch.testing.assert_close(d, expected)


def test_difficulty_of_equal_losses_is_zero():
    assert difficulty(feedback([0.7, 0.7, 0.7])).tolist() == [0.0, 0.0, 0.0]
    assert difficulty(feedback([5.0])).tolist() == [0.0]


def test_uncertainty_is_the_entropy_over_log_c():
    # softmax(log 3, 0, 0, 0) = (1/2, 1/6, 1/6, 1/6):
    # entropy = log 2 / 2 + 3 log 6 / 6 = 0.3466 + 0.8959 = 1.2425; over log 4 = 1.3863: 0.8962.
    logits = torch.tensor([[math.log(3), 0.0, 0.0, 0.0], [0.0] * 4, [1e4, 0.0, 0.0, 0.0]])
    c = uncertainty(feedback([1.0, 1.0, 1.0], logits=logits))
    torch.testing.assert_close(c, torch.tensor([0.8962406, 1.0, 0.0]))


def test_uncertainty_of_the_task_goes_first():
    given = torch.tensor([0.25, 0.5])
    batch = feedback([1.0, 2.0], logits=torch.zeros(2, 3), uncertainty=given)
    assert torch.equal(uncertainty(batch), given)


def test_uncertainty_without_logits_says_what_to_do():
    with pytest.raises(InputError, match=r"watch\(head\).*signals=\(difficulty,\)"):
        uncertainty(feedback([1.0, 2.0]))


def test_adaptive_weights_are_shares_of_the_variance():
    # d = (0, 1): variance 1/4. c = (0.25, 0.75): variance 1/16. w = (1/4) / (5/16) = 0.8.
    signals = torch.tensor([[0.0, 1.0], [0.25, 0.75]])
    weights = adaptive_weights(signals)
    torch.testing.assert_close(weights, torch.tensor([0.8, 0.2]))
    # u = 0.8 * (0, 1) + 0.2 * (0.25, 0.75) = (0.05, 0.95)
    torch.testing.assert_close(utility(signals, weights), torch.tensor([0.05, 0.95]))


def test_one_signal_alone_has_all_the_weight():
    assert adaptive_weights(torch.tensor([[0.3, 0.9]])).tolist() == [1.0]


def test_signals_without_variance_still_have_weights_that_sum_to_one():
    assert adaptive_weights(torch.full((2, 5), 0.5)).tolist() == [0.0, 1.0]


def test_rewards():
    action, worth = torch.tensor([0.5, 0.8]), torch.tensor([0.2, 0.9])
    torch.testing.assert_close(paper_reward(action, worth), torch.tensor([0.1, 0.72]))
    # 0.5 (0.2 - 0.4) = -0.1; 0.8 (0.9 - 0.4) = 0.4
    torch.testing.assert_close(centred_reward(action, worth, 0.4), torch.tensor([-0.1, 0.4]))


def test_the_price_rises_while_too_much_is_kept():
    assert multiplier_step(0.3, 0.7, 0.5, 0.1) == pytest.approx(0.32)
    assert multiplier_step(0.3, 0.4, 0.5, 0.1) == pytest.approx(0.29)


def test_the_price_stays_in_the_range_of_utilities():
    assert multiplier_step(0.99, 1.0, 0.1, 0.1) == 1.0
    assert multiplier_step(0.01, 0.0, 0.5, 0.1) == 0.0
