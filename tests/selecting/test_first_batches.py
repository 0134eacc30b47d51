"""What `learn` says of the first batches: losses, uncertainties, features that cannot be meant."""

import warnings

import pytest
import torch

from data_agent import DataAgent, Feedback, make_selector
from data_agent.errors import DataAgentWarning, InputError
from data_agent.selecting.first_batches import NUM_BATCHES

SIZE, BATCH = 128, 4


def observe(agent, number, **columns):
    """Batch `number` of the first epoch, with columns that differ between samples unless given."""
    index = agent.select(0).index.split(BATCH)[number]
    draws = torch.Generator().manual_seed(number)
    of_samples = {
        "losses": torch.rand(BATCH, generator=draws),
        "features": torch.randn(BATCH, 3, generator=draws),
        "uncertainty": torch.rand(BATCH, generator=draws),
    }
    agent.observe(Feedback(index, **{**of_samples, **columns}))


@pytest.fixture
def agent():
    agent = DataAgent(num_samples=SIZE, epochs=4, keep_ratio=0.5)
    agent.begin_epoch(0)
    return agent


def same(value):
    return torch.full((BATCH,), value)


def test_the_loss_of_a_batch_repeated_for_its_samples_is_refused_with_both_numbers(agent):
    observe(agent, 0, losses=same(2.5))
    before = agent.visits
    with pytest.raises(InputError, match=r"one loss, 2\.5, and all of the next one 1\.5: .*reduct"):
        observe(agent, 1, losses=same(1.5))
    assert agent.visits == before
    observe(agent, 1)


def test_learn_says_so_too(agent):
    weight = torch.nn.Parameter(torch.ones(()))
    first, second = agent.select(0).index.split(BATCH)[:2]
    signals = {"features": torch.randn(BATCH, 3), "uncertainty": torch.rand(BATCH)}
    agent.learn(weight * same(2.0), first, **signals)
    with pytest.raises(InputError, match="losses of batches, repeated for each sample"):
        agent.learn(weight * same(3.0), second, **signals)


def test_a_new_head_and_a_constant_loss_pass(agent):
    observe(agent, 0, losses=same(1.1))  # as the first outputs of a head that is zero
    observe(agent, 1)
    observe(agent, 2, losses=same(0.0))
    observe(agent, 3, losses=same(0.0))


@pytest.mark.parametrize("values", [(0.0, 1.4), (-0.3, 0.5), (3.0, 97.0)])
def test_an_uncertainty_out_of_range_is_refused_with_its_range(agent, values):
    low, high = values
    with pytest.raises(InputError, match=rf"between {low:.4g} and {high:.4g}; expected \[0, 1\]"):
        observe(agent, 0, uncertainty=torch.linspace(low, high, BATCH))


def test_features_that_are_all_alike_are_told_once(agent):
    observe(agent, 0, features=torch.ones(BATCH, 3))
    with pytest.warns(DataAgentWarning, match="features of all samples of a batch are the same"):
        observe(agent, 1, features=torch.full((BATCH, 3), 2.0))
    observe(agent, 2, features=torch.ones(BATCH, 3))


def test_one_batch_of_equal_features_is_none_of_our_business(agent):
    observe(agent, 0, features=torch.ones(BATCH, 3))
    observe(agent, 1)
    observe(agent, 2, features=torch.ones(BATCH, 3))


def test_methods_without_features_hear_nothing_of_them():
    selector = make_selector("random", num_samples=SIZE, epochs=4, keep_ratio=0.5)
    selector.begin_epoch(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for number in range(3):
            observe(selector, number, features=torch.ones(BATCH, 3))


def test_only_the_first_batches_are_looked_at(agent):
    for number in range(NUM_BATCHES):
        observe(agent, number)
    observe(agent, NUM_BATCHES, losses=same(2.0))
    observe(agent, NUM_BATCHES + 1, losses=same(1.0))
