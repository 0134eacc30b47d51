"""Subsets that stand before training: the formulas by hand, and that the subset stays."""

import math

import pytest
import torch
import torch.nn.functional as F

from data_agent import make_selector
from data_agent.baselines.d2_pruning import (
    NeighbourGraph,
    forward_messages,
    message_order,
    nearest_neighbours,
)
from data_agent.baselines.el2n import el2n, prediction_error
from data_agent.baselines.forgetting import forgetting_events
from data_agent.baselines.grand import last_layer_grand
from data_agent.baselines.k_center import greedy_centers
from data_agent.baselines.static import Static, scores_of_order
from data_agent.errors import CheckpointError, InputError

SCORED = ["el2n", "grand", "forgetting", "k-center", "d2-pruning", "rl-selector"]
LOGITS = torch.tensor([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25], [0.2, 0.2, 0.6]]).log()
LABELS = torch.tensor([0, 1, 2])
LENGTHS = [math.sqrt(0.375), math.sqrt(0.875), math.sqrt(0.24)]  # of the errors below


def build(name, *, num_samples=10, epochs=6, keep_ratio=0.4, seed=0, **options):
    return make_selector(
        name,
        num_samples=num_samples,
        epochs=epochs,
        keep_ratio=keep_ratio,
        seed=seed,
        **options,
    )


# The formulas.


def test_el2n_by_hand():
    errors = [[-0.5, 0.25, 0.25], [0.5, -0.75, 0.25], [0.2, 0.2, -0.4]]
    assert torch.allclose(prediction_error(LOGITS, LABELS), torch.tensor(errors))
    assert torch.allclose(el2n(LOGITS, LABELS), torch.tensor(LENGTHS))
    certain = torch.tensor([[100.0, 0.0], [100.0, 0.0]])
    assert el2n(certain, torch.tensor([0, 1])).tolist() == pytest.approx([0, math.sqrt(2)])


def test_grand_by_hand():
    features = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1.0, 1.0]])  # with a one: 26, 1 and 3
    expected = [LENGTHS[0] * math.sqrt(26), LENGTHS[1], LENGTHS[2] * math.sqrt(3)]
    assert torch.allclose(last_layer_grand(LOGITS, LABELS, features), torch.tensor(expected))


def test_grand_is_the_length_of_the_heads_gradient():
    draws = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 5, generator=draws, requires_grad=True)
    bias = torch.randn(4, generator=draws, requires_grad=True)
    features, labels = torch.randn(6, 5, generator=draws), torch.tensor([0, 1, 2, 3, 0, 1])
    scores = last_layer_grand(F.linear(features, weight, bias).detach(), labels, features)
    for i in range(6):
        loss = F.cross_entropy(F.linear(features[i : i + 1], weight, bias), labels[i : i + 1])
        gradients = torch.autograd.grad(loss, [weight, bias])
        length = sum(gradient.square().sum() for gradient in gradients) ** 0.5
        assert float(scores[i]) == pytest.approx(float(length), rel=1e-5)


def test_forgetting_events_by_hand():
    visits = {
        "always right": ([1, 1, 1, 1], 0),
        "learned and kept": ([0, 0, 1, 1], 0),
        "forgotten once": ([0, 1, 1, 0], 1),
        "forgotten twice": ([1, 0, 1, 0], 2),
        "never learned": ([0, 0, 0, 0], math.inf),
    }
    correct = torch.tensor([row for row, _ in visits.values()]).bool().T
    expected = torch.tensor([float(count) for _, count in visits.values()])
    assert torch.equal(forgetting_events(correct), expected)
    assert forgetting_events(correct, never_learned=4)[-1] == 4
    assert forgetting_events(correct[:1]).tolist() == [0, math.inf, math.inf, 0, math.inf]


def test_k_center_on_a_line_by_hand():
    points = torch.tensor([[0.0], [1.0], [2.0], [10.0], [11.0], [5.0]])
    # 11 is farthest from 0; then 5 (5 away), 2 (2 away), and 1 before 10 (both 1 away).
    assert greedy_centers(points, 6).tolist() == [0, 4, 5, 2, 1, 3]
    assert greedy_centers(points, 3).tolist() == [0, 4, 5]
    assert greedy_centers(points, 2, first=3).tolist() == [3, 0]


def test_k_center_takes_nobody_twice_where_all_lie_together():
    order = greedy_centers(torch.ones(5, 3) * 1e3, 5, first=2)
    assert order[0] == 2
    assert sorted(order.tolist()) == [0, 1, 2, 3, 4]


def test_k_center_follows_its_definition():
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(60, 4, generator=generator)
    order = greedy_centers(points, 20, first=7).tolist()
    for taken in range(1, 20):
        nearest = torch.cdist(points, points[order[:taken]]).amin(1)
        assert order[taken] == int(nearest.argmax())


def line():
    """Samples at 0, 1 and 3: edges 0-1 of length 1 and 1-3 of length 2; the mean edge is 1.5."""
    return nearest_neighbours(torch.tensor([[0.0], [1.0], [3.0]]), 1)


def test_a_graph_of_neighbours_by_hand():
    graph = line()
    assert graph.start.tolist() == [0, 1, 3, 4]
    assert graph.neighbour.tolist() == [1, 0, 2, 1]
    assert graph.distance.tolist() == pytest.approx([2 / 3, 2 / 3, 4 / 3, 4 / 3])


def test_forward_messages_by_hand():
    near, far = math.exp(-2 / 3), math.exp(-4 / 3)
    expected = [1 + near * 2, 2 + near * 1 + far * 4, 4 + far * 2]
    scores = forward_messages(torch.tensor([1.0, 2.0, 4.0]), line())
    assert scores.tolist() == pytest.approx(expected)
    sums = forward_messages(torch.tensor([1.0, 2.0, 4.0]), line(), gamma=0)
    assert sums.tolist() == [3, 7, 6]


def test_reverse_messages_by_hand():
    scores = torch.tensor([5.5, 6.0, 5.0])
    # 6 is taken first; what is left is 5.5 - 6 exp(-2/3) = 2.42 and 5 - 6 exp(-4/3) = 3.42.
    assert message_order(scores, line(), 3, gamma=1).tolist() == [1, 2, 0]
    assert message_order(scores, line(), 3, gamma=0).tolist() == [1, 0, 2]  # -0.5 and -1
    assert message_order(scores, line(), 3, gamma=100).tolist() == [1, 0, 2]  # nothing arrives
    assert message_order(scores, line(), 1, gamma=1).tolist() == [1]


def test_d2_leaves_a_dense_region_for_another():
    dense = torch.arange(6.0) / 100
    points = torch.cat([dense, torch.tensor([5.0, 5.5])]).unsqueeze(1)
    difficulty = torch.tensor([3.0, 3.0, 3.0, 3.0, 3.0, 3.0, 1.0, 1.0])
    graph = nearest_neighbours(points, 3)
    order = message_order(forward_messages(difficulty, graph), graph, 8).tolist()
    ranking = difficulty.argsort(descending=True, stable=True).tolist()
    assert set(ranking[:3]) <= set(range(6))
    assert set(order[:3]) & {6, 7}
    assert sorted(order) == list(range(8))


def test_a_graph_needs_others():
    with pytest.raises(InputError, match=r"num_neighbours is 3; expected 1 to 2 \(N - 1\)"):
        nearest_neighbours(torch.zeros(3, 2), 3)
    alone = NeighbourGraph(torch.tensor([0, 0, 0]), torch.empty(0).long(), torch.empty(0))
    assert message_order(torch.tensor([1.0, 2.0]), alone, 2).tolist() == [1, 0]


def test_scores_of_an_order():
    scores = scores_of_order(torch.tensor([2, 0]), 4)
    assert scores.tolist() == [-1, -4, 0, -4]


# The subsets.


@pytest.mark.parametrize("name", SCORED)
def test_the_highest_scores_stay_for_all_epochs(name):
    scores = torch.tensor([0.0, 9.0, -3.0, 5.0, 1.0, 8.0, -torch.inf, torch.inf, 2.0, 3.0])
    selector = build(name, scores=scores)
    assert selector.schedule.kind == "static"
    for epoch in range(6):
        assert selector.select(epoch).index.tolist() == [1, 3, 5, 7]
        assert selector.schedule.plan(epoch).size == 4
    assert build(name, scores=scores.double()).select(0).index.tolist() == [1, 3, 5, 7]


def test_equal_scores_are_drawn_once():
    scores = torch.tensor([1.0] * 8 + [2.0] * 2)
    first = build("forgetting", scores=scores)
    subsets = {tuple(first.select(epoch).index.tolist()) for epoch in range(6)}
    assert len(subsets) == 1
    assert {8, 9} <= set(next(iter(subsets)))
    seeds = {tuple(build("forgetting", scores=scores, seed=s).select(0).index) for s in range(5)}
    assert len(seeds) > 1


def test_static_random_is_one_subset_for_each_seed():
    selector = build("static-random", num_samples=100)
    first = selector.select(0).index
    assert all(torch.equal(selector.select(epoch).index, first) for epoch in range(6))
    assert not torch.equal(build("static-random", num_samples=100, seed=1).select(0).index, first)
    smaller = build("static-random", num_samples=100, keep_ratio=0.2).select(0).index
    assert set(smaller.tolist()) <= set(first.tolist())


def test_static_random_under_another_schedule():
    selector = build("static-random", num_samples=100, epochs=16, schedule="exact")
    assert len(selector.select(10).index) == 40
    assert torch.equal(selector.select(10).index, selector.select(11).index)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([1.0] * 10, r"scores must be a tensor, float \[N\], got list"),
        (torch.zeros(9), r"scores came with shape \[9\]; expected \[10\]"),
        (torch.zeros(10, 1), r"scores came with shape \[10, 1\]"),
        (torch.zeros(10).long(), r"scores came as torch.int64; expected a floating-point"),
        (torch.tensor([0.0, torch.nan] + [1.0] * 8), "scores hold 1 NaN, the first at sample 1"),
    ],
)
def test_wrong_scores_are_refused(scores, message):
    with pytest.raises(InputError, match=message):
        build("el2n", scores=scores)


def test_missing_scores_are_named():
    with pytest.raises(InputError, match=r"method 'el2n' needs scores=\[N\]"):
        build("el2n")


def test_a_state_made_with_other_scores_is_refused():
    scores = torch.arange(10.0)
    selector = build("grand", scores=scores)
    selector.begin_epoch(0)
    build("grand", scores=scores.clone()).load_state_dict(selector.state_dict())
    with pytest.raises(CheckpointError, match="settings was"):
        build("grand", scores=scores.flip(0)).load_state_dict(selector.state_dict())


def test_a_static_method_of_ones_own_is_a_name():
    class Longest(Static):
        name = "longest"

    lengths = torch.tensor([3.0, 1.0, 2.0])
    selector = Longest(num_samples=3, epochs=2, keep_ratio=0.67, scores=lengths)
    assert selector.select(1).index.tolist() == [0, 2]
