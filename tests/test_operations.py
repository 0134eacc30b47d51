"""What a step dispatches on an accelerator stays as little: see benchmarks/operations.py."""

import pytest
import torch
from benchmarks.operations import CASES, DEVICE, Device, Remote, count, elsewhere

from data_agent import DataAgent, DataAgentConfig, Feedback, make_selector
from data_agent.errors import InputError

LIMITS = {
    # operations, generators and calls a step, waits an update
    "policy, 39,000-step run": (25, 0.2, 250, 2),
    "policy, updates every 10 steps": (85, 0.2, 300, 2),
    "500 trusted rows, 39,000-step run": (25, 0.2, 250, 2),
    "500 trusted rows, every 10 steps": (85, 0.2, 300, 2),
    "noise-aware, 39,000-step run": (25, 0, 250, 2),
    "noise-aware, every 10 steps": (85, 0, 300, 2),
    "label-aware": (10, 0, 210, None),
    "random": (10, 0, 210, None),
}


@pytest.mark.parametrize("name", LIMITS)
def test_a_step_is_as_cheap_as_it_was(name):
    operations_, generators, calls, waits = LIMITS[name]
    counts = count(*CASES[name])
    assert counts.operations <= operations_, counts.most
    assert counts.generators <= generators
    assert counts.calls <= calls
    if waits is None:
        assert counts.waits <= 1 / 64 + 0.01  # one look a block
    else:
        assert (counts.waits_per_update or 0) <= waits, counts.most


def test_the_counter_sees_what_waits_and_what_copies():
    device = Device()
    with elsewhere(device), device.counting():
        values = torch.zeros(4, device=DEVICE)
        assert isinstance(values, Remote)
        view = values[1:]
        assert float(view.sum()) == 0  # waits
        values.cpu()  # waits
        torch.ones(4).to(DEVICE, non_blocking=True)
        torch.Generator(device=DEVICE)
    most = device.counts.most
    assert device.counts.waits == 2
    assert device.counts.generators == 1
    assert most["slice"] == most["sum"] == most["wait: _to_copy"] == most["_to_copy"] == 1
    assert device.counts.operations == device.counts.kernels + 2  # a view, and ones on the host


# Values that are not finite are found when a block is acted on.

SIZE, BATCH = 64, 8


def observe(agent, index, *, is_nan=False):
    draws = torch.Generator().manual_seed(int(index[0]))
    losses = torch.rand(len(index), generator=draws)
    if is_nan:
        losses[3] = torch.nan
    features = Remote(torch.randn(len(index), 4, generator=draws))
    logits = Remote(torch.randn(len(index), 3, generator=draws))
    agent.observe(Feedback(index, Remote(losses), logits, features))


@pytest.mark.parametrize("name", ["data-agent", "top-loss", "random"])
def test_on_an_accelerator_they_are_named_when_the_next_epoch_begins(name):
    with elsewhere(Device()):
        agent = make_selector(name, num_samples=SIZE, epochs=8, keep_ratio=0.5)
        agent.begin_epoch(0)
        batches = agent.select(0).index.split(BATCH)
        for number, index in enumerate(batches):
            observe(agent, index, is_nan=number == 1)
        with pytest.raises(InputError, match=rf"for 1 sample\(s\): {batches[1][3]}\."):
            agent.begin_epoch(1)
        agent.begin_epoch(1)  # reported once; nothing else is lost
        for index in agent.select(1).index.split(BATCH):
            observe(agent, index)
        agent.begin_epoch(2)


@pytest.mark.parametrize("on_nonfinite", ["raise", "skip"])
def test_they_never_enter_rollout_or_table_and_the_update_that_is_due_says_so(on_nonfinite):
    config = DataAgentConfig(update_every=4, rollout_rows=16, max_updates=1000)
    with elsewhere(Device()):
        agent = DataAgent(SIZE, 8, config=config, on_nonfinite=on_nonfinite)
        agent.begin_epoch(0)
        batches = agent.select(0).index.split(BATCH)
        for index in batches[:3]:
            observe(agent, index, is_nan=index is batches[1])
        if on_nonfinite == "raise":
            with pytest.raises(InputError, match=rf"for 1 sample\(s\): {batches[1][3]}\."):
                observe(agent, batches[3])
        else:
            observe(agent, batches[3])
            assert agent.metrics()["skipped_nonfinite"] == 1
            assert agent.metrics()["policy_updates"] == 1
            assert agent.policy.learner.networks.weights.isfinite().all()
        staged = agent.state_dict()["staged_index"].tolist()
        assert sorted([*staged, int(batches[1][3])]) == agent.select(0).index.tolist()
