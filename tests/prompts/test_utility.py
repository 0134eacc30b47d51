"""What a group says of its prompt, against numbers computed by hand."""

import pytest
import torch

from data_agent.prompts.baselines.posterior import faded_posterior
from data_agent.prompts.evidence import Evidence, correlation, t_statistic
from data_agent.prompts.regression import ridge
from data_agent.prompts.utility import combined, groups_of, mixed_chance, relative_spread

NAN = torch.nan


def test_the_chance_of_a_mixed_group():
    success = torch.tensor([0.0, 0.5, 1.0, 0.25])
    size = torch.tensor([4, 2, 8, 2])
    # 1 - 0.25 - 0.25; 1 - 0.0625 - 0.5625
    assert mixed_chance(success, size).tolist() == [0.0, 0.5, 0.0, 0.375]


def test_the_utility_of_groups_of_zeros_and_ones():
    rewards = torch.tensor([[1.0, 0, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]])
    groups = groups_of(rewards, 0.0, 1.0)
    # (1 - p)(1 - p^4 - (1 - p)^4): 0.75 (1 - 0.00390625 - 0.31640625), and 0.25 of the same
    assert groups.utility.tolist() == pytest.approx([0.509765625, 0.169921875, 0, 0])
    assert groups.success.tolist() == [0.25, 0.75, 0, 1]
    assert groups.is_informative.tolist() == [True, True, False, False]


def test_graded_rewards_count_by_their_spread():
    # Mean 0.5, variance 0.01, of at most 0.25: s = 0.2. Room 0.5, mixed with chance 0.5.
    groups = groups_of(torch.tensor([[0.4, 0.6]]), 0.0, 1.0)
    assert groups.utility.tolist() == pytest.approx([0.5 * 0.5 * 0.2])
    # The same in another range.
    wide = groups_of(torch.tensor([[-2.0, 2.0]]), -10.0, 10.0)
    assert wide.utility.tolist() == pytest.approx([0.5 * 0.5 * 0.2])
    spread = relative_spread(torch.tensor([0.0, 0.5]), torch.tensor([0.0, 0.25]))
    assert spread.tolist() == [0.0, 1.0]


def test_unknown_rewards_make_groups_smaller():
    groups = groups_of(torch.tensor([[1.0, 0.0, NAN], [1.0, NAN, NAN], [NAN, NAN, NAN]]), 0.0, 1.0)
    assert groups.utility[0] == pytest.approx(0.25)  # (1 - 0.5)(1 - 0.25 - 0.25)
    assert groups.utility[1:].isnan().all()
    assert groups.success[:2].tolist() == [0.5, 1.0]
    assert groups.success[2].isnan()
    assert groups.is_informative.tolist() == [True, False, False]


def test_a_range_without_width_says_nothing():
    groups = groups_of(torch.tensor([[3.0, 3.0]]), 3.0, 3.0)
    assert groups.success.tolist() == [0.5]
    assert groups.utility.tolist() == [0.0]


def test_reward_functions_are_added_where_they_apply():
    rewards = torch.tensor([[[1.0, 2.0], [NAN, 2.0], [NAN, NAN]]])
    assert combined(rewards, torch.tensor([1.0, 0.5])).nan_to_num(-1).tolist() == [[2.0, 1.0, -1.0]]
    assert combined(rewards).nan_to_num(-1).tolist() == [[3.0, 2.0, -1.0]]


def test_the_statistics_of_evidence():
    # Deviations -1, 0, 1 and -1, 1, 0: r = 1 / 2
    assert correlation(torch.tensor([1.0, 2, 3]), torch.tensor([0.0, 2, 1])) == pytest.approx(0.5)
    assert correlation(torch.ones(3), torch.tensor([0.0, 2, 1])) == 0
    # 0.5 sqrt(48 / 0.75)
    assert t_statistic(0.5, 48) == pytest.approx(4.0)


@pytest.mark.parametrize("batch", [1, 2, 3, 16])
def test_evidence_is_rarely_clear_where_nothing_is_correlated(batch):
    """Centring takes a degree of freedom of each batch: of 2.3 % false alarms it made 8."""
    draws = torch.Generator().manual_seed(0)
    alarms = 0
    for _ in range(600):
        evidence = Evidence(num_rows=128)
        for _ in range(128 // batch):
            evidence.add(*torch.randn(2, batch, generator=draws))
        alarms += evidence.is_clear()
    assert alarms / 600 < 0.045
    assert batch == 1 or alarms


def test_the_posterior_fades_towards_one_success_and_one_failure():
    counts = torch.tensor([[5.0, 3.0]])
    # 0.5 (5, 3) + 0.5 (1, 1) + 4 (0.25, 0.75)
    assert faded_posterior(counts, torch.tensor([0.25]), 4, 0.5).tolist() == [[4.0, 5.0]]


def test_ridge_regression_by_hand():
    # X'X = diag(2, 8), X'y = (2, 8); with penalty 2: 2 / 4 and 8 / 10
    rows = torch.tensor([[1.0, 2], [1, -2]], dtype=torch.float64)
    target = torch.tensor([3.0, -1], dtype=torch.float64)
    assert ridge(rows, target, 2.0).tolist() == pytest.approx([0.5, 0.8])
