"""Cluster-balanced random subsets: those of class-balanced-random, by groups."""

import pytest
import torch

from data_agent import make_selector
from data_agent.errors import CheckpointError, InputError

GROUPS = torch.tensor([2, 0, 0, 5, 0, 2, 0, 2, 0, 0])  # six of group 0, three of 2, one of 5


def build(groups=GROUPS, *, method="cluster-balanced-random", option="groups"):
    return make_selector(
        method, num_samples=10, epochs=12, keep_ratio=0.6, seed=0, **{option: groups}
    )


def test_it_is_class_balanced_random_by_groups():
    by_class = build(method="class-balanced-random", option="labels")
    selector = build()
    for epoch in range(12):
        assert torch.equal(selector.select(epoch).index, by_class.select(epoch).index)
    counts = torch.bincount(GROUPS[selector.select(3).index], minlength=6)
    assert counts.sum() == 6
    assert counts[5] == 1
    assert {int(counts[0]), int(counts[2])} == {2, 3}


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (GROUPS.tolist(), r"groups must be a tensor, int64 \[N\], got list"),
        (GROUPS.float(), r"groups came as torch.float32; expected torch.int64.*groups.long\(\)"),
        (GROUPS[1:], r"groups came with shape \[9\]; expected \[10\]"),
        (GROUPS - 1, "groups hold -1; expected numbers from 0 on"),
    ],
)
def test_wrong_groups_are_refused(groups, message):
    with pytest.raises(InputError, match=message):
        build(groups)


def test_missing_groups_are_named():
    with pytest.raises(InputError, match=r"needs groups=\[N\]"):
        make_selector("cluster-balanced-random", num_samples=10, epochs=2, keep_ratio=0.5)


def test_a_state_of_other_groups_is_refused():
    with pytest.raises(CheckpointError, match="settings was"):
        build(GROUPS.flip(0)).load_state_dict(build().state_dict())
