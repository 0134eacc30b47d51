"""RL-Selector: distances and rewards by hand, and that the policy learns what they say."""

import pytest
import torch

from data_agent.baselines.rl_selector import (
    SelectionPolicy,
    class_distance,
    ratio_reward,
    redundancy_reward,
    standardised_within,
)


def test_distance_to_ones_class_by_hand():
    features = torch.tensor([[0.0], [100.0], [1.0], [3.0], [104.0]])
    labels = torch.tensor([0, 1, 0, 0, 1])
    # Of class 0: 1 + 3, 1 + 2 and 3 + 2; the others do not count.
    assert class_distance(features, labels).tolist() == [4, 4, 3, 5, 4]


@pytest.mark.parametrize(
    ("kept", "keep_ratio", "expected"),
    [(1, 0.25, 0), (4, 0.25, -1), (0, 0.25, -1), (2, 0.25, -1 / 3), (2, 1.0, -0.5), (4, 1.0, 0)],
)
def test_the_ratios_reward_by_hand(kept, keep_ratio, expected):
    actions = (torch.arange(4) < kept).float()
    assert float(ratio_reward(actions, keep_ratio)) == pytest.approx(expected)


def test_the_redundancys_reward_by_hand():
    actions, worth = torch.tensor([1.0, 0.0, 1.0]), torch.tensor([2.0, 5.0, -1.0])
    assert redundancy_reward(actions, worth).tolist() == [2, 0, -1]


def test_worth_is_compared_within_a_class():
    values = torch.tensor([1.0, 3.0, 10.0, 30.0, 7.0])
    labels = torch.tensor([0, 0, 1, 1, 2])
    assert standardised_within(values, labels).tolist() == pytest.approx([-1, 1, -1, 1, 0])


def clumps():
    """Each of two classes: 80 samples in a clump, and 20 far from it and from each other."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 2
    is_far = torch.arange(200) >= 160
    features = torch.randn(200, 6, generator=generator) * torch.where(is_far, 3.0, 0.1)[:, None]
    features[:, 0] += torch.where(is_far, 4.0, 0.0)
    return features, labels, is_far


def trained(keep_ratio=0.5, seed=0):
    features, labels, _ = clumps()
    policy = SelectionPolicy(6, keep_ratio, seed=seed)
    for _ in range(60):
        policy.learn(features, labels)
    return policy.probabilities(features)


def test_covered_samples_are_dropped_first():
    _, _, is_far = clumps()
    probability = trained()
    assert probability[is_far].mean() > probability[~is_far].mean() + 0.2
    kept = probability.argsort(descending=True)[:40]
    assert is_far[kept].float().mean() > 0.9


def test_the_policy_is_a_function_of_its_seed():
    before = torch.get_rng_state()
    first = trained()
    assert torch.equal(first, trained())
    assert not torch.equal(first, trained(seed=1))
    assert torch.equal(before, torch.get_rng_state())


def test_everything_may_be_kept():
    assert trained(keep_ratio=1.0).isfinite().all()
