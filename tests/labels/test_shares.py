"""Equal shares of classes, by hand."""

import pytest
import torch

from data_agent.labels.shares import equal_shares, water_level


@pytest.mark.parametrize(
    ("sizes", "total", "expected"),
    [
        ([4, 4, 4], 6, (2, 0)),  # two each
        ([4, 4, 4], 7, (2, 1)),  # two each, one class gives a third
        ([6, 3, 1], 6, (2, 1)),  # 2 + 2 + 1, one left for the two larger ones
        ([6, 3, 1], 8, (4, 0)),  # 4 + 3 + 1
        ([6, 3, 1], 10, (6, 0)),  # everything
        ([6, 3, 1], 2, (0, 2)),  # fewer samples than classes
        ([5], 3, (3, 0)),
    ],
)
def test_the_water_level_by_hand(sizes, total, expected):
    level = water_level(torch.tensor(sizes), torch.zeros(len(sizes), dtype=torch.int64), total)
    rest = total - sum(min(size, level) for size in sizes)
    assert (level, rest) == expected
    assert rest <= sum(size > level for size in sizes)


@pytest.mark.parametrize(
    ("sizes", "taken", "count", "quota"),
    [
        ([100, 100, 100], [0, 0, 0], 30, [10, 10, 10]),
        ([100, 5, 50], [0, 0, 0], 45, [20, 5, 20]),
        ([100, 5, 50], [30, 0, 0], 45, [5, 5, 35]),
        ([10, 10, 10], [3, 0, 0], 9, [1, 4, 4]),
        ([3, 9, 6], [0, 0, 0], 9, [3, 3, 3]),
        ([3, 9, 6], [0, 0, 0], 18, [3, 9, 6]),
        ([3, 9, 6], [5, 5, 5], 0, [0, 0, 0]),
        ([0, 4], [0, 0], 2, [0, 2]),
    ],
)
def test_classes_rise_to_one_level(sizes, taken, count, quota):
    assert equal_shares(torch.tensor(sizes), torch.tensor(taken), count).tolist() == quota


def test_shares_add_up_and_never_ask_for_more_than_there_is():
    draws = torch.Generator().manual_seed(0)
    for _ in range(300):
        sizes = torch.randint(0, 40, (7,), generator=draws)
        taken = torch.randint(0, 40, (7,), generator=draws)
        count = int(torch.randint(0, int(sizes.sum()) + 1, (), generator=draws))
        quota = equal_shares(sizes, taken, count)
        assert int(quota.sum()) == count
        assert ((quota >= 0) & (quota <= sizes)).all()
        total = taken + quota
        can_give, can_take = quota > 0, quota < sizes
        if can_give.any() and can_take.any():  # no class could give one to a smaller one
            assert int(total[can_give].max()) <= int(total[can_take].min()) + 1


def test_what_is_left_over_goes_to_other_classes_each_time():
    sizes, taken = torch.full((40,), 5), torch.zeros(40, dtype=torch.int64)
    shares = [equal_shares(sizes, taken, 10, seed=seed) for seed in range(200)]
    assert int(torch.stack(shares).sum(0).min()) > 25  # of 50
