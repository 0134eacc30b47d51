"""Methods that rank by a score: the formulas by hand, and which samples they take."""

import math

import pytest
import torch

from data_agent import Feedback, make_selector
from data_agent.baselines.entropy import entropy
from data_agent.baselines.small_margin import distance_to_decision, top_margin
from data_agent.errors import InputError

# Softmax of the logarithms of probabilities are the probabilities.
LOGITS = torch.tensor([[0.5, 0.25, 0.25], [0.8, 0.1, 0.1], [0.3, 0.3, 0.4]]).log()
LOSSES = torch.tensor([0.7, 0.2, 1.2])


def test_entropy_by_hand():
    expected = [
        1.5 * math.log(2),  # 1/2 log 2 + 2/4 log 4
        -0.8 * math.log(0.8) - 0.2 * math.log(0.1),
        -0.6 * math.log(0.3) - 0.4 * math.log(0.4),
    ]
    assert torch.allclose(entropy(LOGITS), torch.tensor(expected))
    assert float(entropy(torch.zeros(1, 7))) == pytest.approx(math.log(7))
    assert float(entropy(torch.tensor([[200.0, -200.0]]))) == 0  # no 0 * log 0


def test_margins_by_hand():
    assert torch.allclose(top_margin(LOGITS), torch.tensor([0.25, 0.7, 0.1]))
    labels = torch.tensor([0, 1, 1])  # right, wrong by 0.8 - 0.1, wrong by 0.4 - 0.3
    assert torch.allclose(distance_to_decision(LOGITS, labels), torch.tensor([0.25, 0.7, 0.1]))
    labels = torch.tensor([1, 0, 2])  # wrong by 0.5 - 0.25, right by 0.7 and by 0.1
    assert torch.allclose(distance_to_decision(LOGITS, labels), torch.tensor([0.25, 0.7, 0.1]))
    three = torch.tensor([[0.6, 0.3, 0.1]]).log()
    assert float(distance_to_decision(three, torch.tensor([2]))) == pytest.approx(0.5)  # 0.6 - 0.1
    assert float(distance_to_decision(three, torch.tensor([-100]))) == pytest.approx(
        0.6
    )  # no class


def build(name, *, num_samples=3, epochs=10, keep_ratio=0.34):
    return make_selector(name, num_samples=num_samples, epochs=epochs, keep_ratio=keep_ratio)


@pytest.mark.parametrize(
    ("name", "labels", "ranking"),
    [
        ("top-loss", None, [2, 0, 1]),
        ("small-loss", None, [1, 0, 2]),
        ("entropy", None, [2, 0, 1]),
        ("small-margin", None, [2, 0, 1]),
        ("small-margin", [0, 1, 0], [2, 0, 1]),  # margins 0.25, 0.7, 0.1
        ("small-margin", [1, 1, 0], [2, 0, 1]),  # the first is wrong, as closely
    ],
)
def test_the_samples_they_take(name, labels, ranking):
    labels = None if labels is None else torch.tensor(labels)
    feedback = Feedback(torch.arange(3), LOSSES, logits=LOGITS, labels=labels)
    selector = build(name)
    selector.merge(torch.arange(3), selector.record(feedback))
    nobody = torch.zeros(3, dtype=torch.bool)
    for count in (1, 2):
        assert set(chosen(selector, count, nobody)) == set(ranking[:count])
    first = torch.arange(3) == ranking[0]
    assert chosen(selector, 1, first) == [ranking[1]]


def chosen(selector, count, excluded):
    return selector.choose(9, count, excluded).nonzero().squeeze(1).tolist()


def test_a_sample_without_a_score_goes_first():
    selector = build("small-loss")
    selector.merge(torch.tensor([0, 2]), torch.tensor([[-0.1], [-0.2]]))
    assert chosen(selector, 1, torch.zeros(3, dtype=torch.bool)) == [1]


def test_a_confidently_wrong_sample_goes_last_by_its_label_only():
    logits = torch.tensor([[0.55, 0.44, 0.01], [0.9, 0.05, 0.05]]).log()
    labels = torch.tensor([2, 0])  # the first looks close, but its label lacks 0.54
    assert top_margin(logits).argmin() == 0
    assert distance_to_decision(logits, labels).tolist() == pytest.approx([0.54, 0.85])


def test_entropy_takes_a_tasks_own_uncertainty():
    own = torch.tensor([0.1, 0.9, 0.5])
    feedback = Feedback(torch.arange(3), LOSSES, uncertainty=own)
    assert torch.equal(build("entropy").record(feedback), own.unsqueeze(1))


@pytest.mark.parametrize("name", ["entropy", "small-margin"])
def test_missing_logits_are_named(name):
    selector = build(name)
    selector.begin_epoch(0)
    index = selector.select(0).index
    with pytest.raises(InputError, match=rf"{name} .*no logits \[B, C\] .*watch\(head\)") as error:
        selector.observe(Feedback(index, torch.ones(len(index))))
    assert ("uncertainty=" in str(error.value)) == (name == "entropy")
    assert selector.visits == 0


def test_small_loss_looks_at_everybody_again():
    selector = build("small-loss", num_samples=100, epochs=40, keep_ratio=0.5)
    losses = torch.arange(100.0)
    seen = torch.zeros(100, dtype=torch.int64)
    for epoch in selector.epochs():
        index = selector.select(epoch).index
        if 2 <= epoch < 12:  # behind a warm-up of two epochs: 10 explored and 40 chosen each
            seen[index] += 1
            lowest = set(range(40))
            assert lowest <= set(index.tolist())
        selector.observe(Feedback(index, losses[index]))
    assert int(seen.min()) == 1
    assert int(seen[50:].max()) == 1
