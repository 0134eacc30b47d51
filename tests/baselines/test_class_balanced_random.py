"""Class-balanced random subsets: counts by hand, and each class's own passes."""

import pytest
import torch

from data_agent import make_selector
from data_agent.baselines.class_balanced_random import is_its_turn
from data_agent.errors import InputError

LABELS = torch.tensor([2, 0, 0, 5, 0, 2, 0, 2, 0, 0])  # six of class 0, three of 2, one of 5


def build(labels=LABELS, *, keep_ratio=0.6, epochs=60, seed=0, **options):
    return make_selector(
        "class-balanced-random",
        num_samples=len(LABELS),
        epochs=epochs,
        keep_ratio=keep_ratio,
        seed=seed,
        labels=labels,
        **options,
    )


def test_turns_go_round():
    turns = [[is_its_turn(turn, 2, 5, epoch) for turn in range(5)] for epoch in range(5)]
    assert [[i for i, is_on in enumerate(row) if is_on] for row in turns] == [
        [0, 1],
        [2, 3],
        [0, 4],
        [1, 2],
        [3, 4],
    ]


def counts_of(selection):
    return [int((LABELS[selection.index] == label).sum()) for label in (0, 2, 5)]


def test_each_epoch_is_as_balanced_as_the_data_allow():
    selector = build()
    counts = [counts_of(selector.select(epoch)) for epoch in range(60)]
    assert {tuple(row) for row in counts} == {(3, 2, 1), (2, 3, 1)}
    assert sum(row[0] for row in counts) == 30 * 3 + 30 * 2  # the two take turns


@pytest.mark.parametrize("keep_ratio", [0.2, 0.5, 0.6, 0.9, 1.0])
def test_within_a_class_nobody_is_drawn_again_until_all_were(keep_ratio):
    selector = build(keep_ratio=keep_ratio)
    visits = torch.zeros(len(LABELS), dtype=torch.int64)
    for epoch in range(60):
        index = selector.select(epoch).index
        assert len(index) == selector.schedule.num_kept
        visits[index] += 1
        for label in (0, 2, 5):
            seen = visits[label == LABELS]
            assert int(seen.max() - seen.min()) <= 1


def test_the_passes_are_shuffled():
    firsts = {tuple(build(seed=seed).select(0).index.tolist()) for seed in range(20)}
    assert len(firsts) > 5
    selector = build(keep_ratio=0.3)  # one of each class an epoch
    passes = [tuple(selector.select(6 * p + e).index[0].item() for e in range(6)) for p in range(6)]
    assert len(set(passes)) > 1


def test_an_epoch_depends_on_seed_and_number_alone():
    forward = [build().select(epoch).index for epoch in range(9)]
    selector = build()
    assert all(torch.equal(selector.select(e).index, forward[e]) for e in (8, 3, 3, 5, 0))


def test_a_loader_that_changes_the_budget_changes_the_quotas():
    selector = build()
    selector.select(0)
    selector.use_loader(4, drop_last=True)
    assert len(selector.select(0)) == 4
    assert counts_of(selector.select(0)) in ([2, 1, 1], [1, 2, 1])


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        (LABELS.tolist(), "tensor, int64 .* got list"),
        (LABELS.float(), "float32; expected torch.int64"),
        (LABELS.int(), r"labels\.long\(\)"),
        (LABELS[1:], r"shape \[9\]; expected \[10\]"),
        (LABELS.unsqueeze(1), r"shape \[10, 1\]"),
        (LABELS - 1, "labels hold -1; expected numbers from 0 on"),
        (None, r"needs labels=\[N\]"),
    ],
)
def test_bad_labels_are_refused(labels, text):
    with pytest.raises(InputError, match=text):
        build(labels)


def test_it_has_one_schedule():
    with pytest.raises(InputError, match="schedule"):
        build(schedule="exact")


def test_a_state_of_other_labels_is_refused():
    selector = build()
    selector.begin_epoch(0)
    state = selector.state_dict()
    build().load_state_dict(state)
    with pytest.raises(ValueError, match="settings was"):
        build(LABELS.flip(0)).load_state_dict(state)
