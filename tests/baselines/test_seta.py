"""SeTa: clusters and windows by hand, and what is drawn from them."""

import pytest
import torch

from data_agent.baselines.seta import SeTa, difficulty_groups, window_distance
from data_agent.errors import InputError


def test_clusters_by_hand():
    losses = torch.tensor([9.2, 0.0, 5.1, 0.1, 9.0, 5.0])
    assert difficulty_groups(losses, 3).tolist() == [2, 0, 1, 0, 2, 1]
    assert difficulty_groups(losses, 1).tolist() == [0] * 6
    assert difficulty_groups(losses, 10).tolist() == [5, 0, 3, 1, 4, 2]  # one each


def test_lloyd_moves_the_borders():
    # Split at the mean (4): {0, 3, 4} and {6, 7}. Centres 2.33 and 6.5, border 4.4: a fixed point.
    assert difficulty_groups(torch.tensor([0.0, 3, 4, 6, 7]), 2).tolist() == [0, 0, 0, 1, 1]
    # Split at the mean (3.67): {0, 1, 2, 3} and {4, 12}; centres 1.5 and 8, border 4.75: 4 moves.
    losses = torch.tensor([0.0, 1, 2, 3, 4, 12])
    assert difficulty_groups(losses, 2).tolist() == [0, 0, 0, 0, 0, 1]


def test_coinciding_losses_stay_together():
    assert difficulty_groups(torch.zeros(5), 4).tolist() == [0] * 5
    assert difficulty_groups(torch.tensor([0.0, 0, 0, 2, 2]), 4).tolist() == [0, 0, 0, 1, 1]


def test_losses_nobody_knows_count_as_the_highest():
    losses = torch.tensor([0.0, torch.inf, 4.0, 0.1])
    assert difficulty_groups(losses, 2).tolist() == [0, 1, 1, 0]
    assert difficulty_groups(torch.full((3,), torch.inf), 2).tolist() == [0] * 3


@pytest.mark.parametrize("shape", ["exponential", "heavy", "mostly zero"])
def test_clusters_are_nearly_the_best(shape):
    """Against the optimum, by dynamic programming over all cuts of the sorted losses."""
    losses = torch.rand(300, generator=torch.Generator().manual_seed(1)).double()
    losses = -losses.log()
    if shape == "heavy":
        losses = losses**4
    if shape == "mostly zero":
        losses = (losses - 1).clamp_min(0)
    ordered = losses.sort().values
    groups = difficulty_groups(ordered, 5)
    assert groups.unique().tolist() == [0, 1, 2, 3, 4]
    assert bool((groups.diff() >= 0).all())
    found = sum(float((part - part.mean()).square().sum()) for part in parts(ordered, groups))
    assert found <= 1.1 * best_error(ordered, 5)


def parts(values, groups):
    return [values[groups == group] for group in range(int(groups.max()) + 1)]


def best_error(ordered, num_groups):
    size = len(ordered)
    zero = torch.zeros(1, dtype=torch.float64)
    sums = torch.cat([zero, ordered.cumsum(0)])
    squares = torch.cat([zero, ordered.square().cumsum(0)])
    count = torch.arange(size + 1).unsqueeze(0) - torch.arange(size + 1).unsqueeze(1)
    spread = (sums.unsqueeze(0) - sums.unsqueeze(1)).square() / count.clamp_min(1)
    error = (squares.unsqueeze(0) - squares.unsqueeze(1) - spread).masked_fill(count < 0, torch.inf)
    best = error[0]
    for _ in range(num_groups - 1):
        best = (best.unsqueeze(1) + error).min(0).values
    return float(best[-1])


def test_the_window_slides_from_easy_to_hard_and_starts_again():
    distances = [window_distance(5, 0.4, step).tolist() for step in range(5)]
    assert distances == [
        [0, 0, 2, 4, 6],
        [1, 0, 0, 2, 4],
        [3, 1, 0, 0, 2],
        [5, 3, 1, 0, 0],
        [0, 0, 2, 4, 6],
    ]
    assert window_distance(3, 1.0, 7).tolist() == [0, 0, 0]
    assert window_distance(3, 0.01, 1).tolist() == [1, 0, 2]  # never less than one cluster


LOSSES = torch.tensor([0.0, 5.0, 9.0]).repeat(4) + torch.arange(12) / 100  # clusters i mod 3
NOBODY = torch.zeros(12, dtype=torch.bool)


def build(**options):
    """Static, so that every epoch moves the window by one."""
    options = {"num_groups": 3, "window": 0.34, "schedule": "static"} | options
    selector = SeTa(num_samples=12, epochs=40, keep_ratio=0.5, **options)
    selector.scores = LOSSES.clone()
    return selector


def clusters(chosen):
    return [int(chosen[group::3].sum()) for group in range(3)]


def test_a_window_that_holds_the_budget_is_taken():
    selector = build()
    taken = [clusters(selector.choose(epoch, 4, NOBODY)) for epoch in range(4)]
    assert taken == [[4, 0, 0], [0, 4, 0], [0, 0, 4], [4, 0, 0]]


def test_a_window_that_holds_more_is_sampled():
    selector = build(window=0.67)  # two of three clusters
    drawn = [selector.choose(epoch, 4, NOBODY) for epoch in range(0, 40, 2)]
    assert all(clusters(chosen)[2] == 0 for chosen in drawn)
    assert len({tuple(chosen.tolist()) for chosen in drawn}) > 10


def test_a_window_that_holds_less_is_filled_from_the_side():
    selector = build()
    taken = [clusters(selector.choose(epoch, 6, NOBODY)) for epoch in range(3)]
    assert taken == [[4, 2, 0], [2, 4, 0], [0, 2, 4]]
    excluded = LOSSES < 1  # the easiest cluster is in the epoch already
    assert clusters(selector.choose(0, 6, excluded)) == [0, 4, 2]


def test_the_first_selected_epoch_takes_the_easiest():
    selector = build(schedule="exact")  # two epochs of warm-up
    taken = [clusters(selector.choose(epoch, 4, NOBODY)) for epoch in (2, 3, 4, 5)]
    assert taken == [[4, 0, 0], [0, 4, 0], [0, 0, 4], [4, 0, 0]]


def test_bad_options_are_refused():
    with pytest.raises(InputError, match="num_groups is 0"):
        build(num_groups=0)
    for window in (0, 1.5):
        with pytest.raises(InputError, match=f"window is {window}"):
            build(window=window)


def test_a_state_of_other_options_is_refused():
    state = build().state_dict()
    with pytest.raises(ValueError, match="num_groups"):
        build(num_groups=4).load_state_dict(state)
