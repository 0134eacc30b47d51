"""RCAP: counts of classes by hand, and the draw within a class."""

import math

import pytest
import torch

from data_agent import Feedback
from data_agent.baselines.rcap import RCAP, class_counts
from data_agent.errors import CheckpointError, InputError


def build(labels, *, seed=0, **options):
    return RCAP(
        num_samples=len(labels), epochs=16, keep_ratio=0.5, seed=seed, labels=labels, **options
    )


@pytest.mark.parametrize(
    ("class_loss", "sizes", "count", "expected"),
    [
        ([4, 1], [10, 10], 9, [6, 3]),  # roots 2 to 1
        ([1, 1], [16, 4], 9, [6, 3]),  # the same by the shares 4 to 1
        ([0, 0], [16, 4], 9, [6, 3]),  # no loss at all: the shares alone
        ([24, 1.2], [2, 10], 9, [2, 7]),  # L pi is 4 and 1; the first has only 2
        ([36, 9, 1], [3, 6, 90], 26, [3, 6, 17]),  # both small ones are full, one after the other
        ([1, 1, 1], [10, 10, 10], 10, [4, 3, 3]),  # thirds: the largest remainder first
        ([1, 0], [10, 10], 5, [4, 1]),  # nobody is left without
        ([1, 0, 0], [10, 10, 10], 2, [1, 1, 0]),  # where there are enough
        ([1, 2], [3, 4], 7, [3, 4]),
    ],
)
def test_counts_by_hand(class_loss, sizes, count, expected):
    counts = class_counts(torch.tensor(class_loss).double(), torch.tensor(sizes), count)
    assert counts.tolist() == expected


def test_counts_are_exact_and_possible():
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        num_classes = int(torch.randint(1, 9, (), generator=generator))
        sizes = torch.randint(1, 40, (num_classes,), generator=generator)
        limits = (sizes * torch.rand(num_classes, generator=generator)).ceil().long()
        loss = torch.rand(num_classes, generator=generator).double() ** 8
        count = int(torch.randint(0, int(limits.sum()) + 1, (), generator=generator))
        counts = class_counts(loss, sizes, count, limits=limits)
        assert int(counts.sum()) == count
        assert bool((counts <= limits).all())
        assert bool((counts >= 0).all())


def test_a_class_that_is_learned_badly_gets_more():
    labels = torch.arange(40) % 2
    selector = build(labels)
    for epoch in range(2):  # the warm-up: losses 0.16 and 0.64, roots 2 to 4
        selector.begin_epoch(epoch)
        index = selector.select(epoch).index
        selector.observe(Feedback(index, 0.16 + 0.48 * labels[index]))
    even = int((labels[selector.select(1).index] == 0).sum())  # of the last epoch's 20
    selector.begin_epoch(2)
    counts = torch.bincount(labels[selector.select(2).index])
    ratio = math.sqrt(0.64 * (20 - even) / (0.16 * even))
    assert counts.sum() == 20
    assert counts[1] == pytest.approx(20 * ratio / (1 + ratio), abs=1)


def test_within_a_class_draws_follow_the_loss():
    """Losses 0 and log 2, which is the clip for two classes: shares 1/3 and 2/3."""
    labels = torch.tensor([0, 0, 1, 1])
    nobody = torch.zeros(4, dtype=torch.bool)
    taken = torch.zeros(4)
    for seed in range(1500):
        selector = build(labels, seed=seed)
        losses = torch.tensor([0.0, 50.0, math.log(2), 0.0])
        selector.merge(torch.arange(4), losses.unsqueeze(1))
        assert selector.losses.max() == pytest.approx(math.log(2))
        taken[selector.choose(8, 2, nobody)] += 1
    assert (taken / 1500).tolist() == pytest.approx([1 / 3, 2 / 3, 2 / 3, 1 / 3], abs=0.05)


def test_a_low_temperature_takes_the_highest():
    labels = torch.arange(20) % 2
    selector = build(labels, beta=0.001)
    selector.merge(torch.arange(20), torch.linspace(0, 0.6, 20).unsqueeze(1))
    chosen = selector.choose(8, 10, torch.zeros(20, dtype=torch.bool))
    for label in (0, 1):
        own = chosen[labels[chosen] == label].tolist()
        assert sorted(own) == list(range(20))[label::2][-len(own) :]


def test_nobody_excluded_is_taken():
    labels = torch.tensor([3] * 15 + [7] * 5)
    excluded = torch.arange(20) % 3 == 0
    chosen = build(labels).choose(8, 13, excluded)
    assert len(set(chosen.tolist())) == 13
    assert not excluded[chosen].any()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1], r"labels must be a tensor, int64 \[N\], got list"),
        (torch.zeros(2).int(), r"labels came as torch.int32; expected torch.int64"),
        (torch.tensor([0, -1]), "labels hold -1; expected numbers from 0 on"),
    ],
)
def test_wrong_labels_are_refused(labels, message):
    with pytest.raises(InputError, match=message):
        build(labels)


def test_wrong_temperature_is_refused():
    with pytest.raises(InputError, match="beta is 0; expected a temperature above 0"):
        build(torch.zeros(4).long(), beta=0)


def test_a_state_of_other_labels_is_refused():
    selector = build(torch.tensor([0, 0, 1, 1]))
    with pytest.raises(CheckpointError, match="settings was"):
        build(torch.tensor([0, 1, 0, 1])).load_state_dict(selector.state_dict())
