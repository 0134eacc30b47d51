"""The loop as a user writes it: with us equals without us, and everything torch can do in it."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from data_agent import DataAgent, DataAgentConfig, make_selector, selection_loader
from data_agent.errors import DataAgentWarning

SIZE, EPOCHS, BATCH_SIZE = 96, 16, 16


def dataset():
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(SIZE, 10, generator=draws)
    return TensorDataset(x, (x[:, 0] * x[:, 1] > 0).long())


def model():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(10, 24), nn.ReLU(), nn.Dropout(0.3), nn.Linear(24, 2))


def augmented(x):
    return x + 0.1 * torch.randn_like(x)  # from the global generator, as most augmentation


def train_with(selector, *, epochs=EPOCHS, **loader_options):
    """Returns the model and the indices in the order in which they were visited."""
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    loader = selection_loader(dataset(), selector, batch_size=BATCH_SIZE, **loader_options)
    selector.watch(net[3])
    visited = []
    for _ in selector.epochs():
        for x, y, index in loader:
            losses = F.cross_entropy(net(augmented(x)), y, reduction="none")
            loss = selector.learn(losses, index)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            visited += index.tolist()
    selector.unwatch()
    return net, visited


def train_without(visited, *, epoch_size):
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for start in range(0, len(visited), epoch_size):
        sampler = visited[start : start + epoch_size]
        for x, y in DataLoader(dataset(), batch_size=BATCH_SIZE, sampler=sampler):
            losses = F.cross_entropy(net(augmented(x)), y, reduction="none")
            losses.mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    return net


def weights(net):
    return torch.cat([p.detach().flatten() for p in net.parameters()])


@pytest.mark.parametrize("method", ["full", "random", "data-agent"])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_with_us_equals_without_us(method, num_workers):
    selector = make_selector(method, num_samples=SIZE, epochs=EPOCHS, keep_ratio=1.0)
    torch.manual_seed(7)
    ours, visited = train_with(selector, num_workers=num_workers)
    random_state = torch.get_rng_state()
    assert len(visited) == SIZE * EPOCHS
    torch.manual_seed(7)
    theirs = train_without(visited, epoch_size=SIZE)
    assert torch.equal(weights(ours), weights(theirs))
    assert torch.equal(random_state, torch.get_rng_state())


def test_half_the_budget_differs_and_still_equals_the_plain_loop_over_its_indices():
    full = train_with(make_selector("full", num_samples=SIZE, epochs=EPOCHS, keep_ratio=1))[0]
    agent = DataAgent(num_samples=SIZE, epochs=EPOCHS, keep_ratio=0.5)
    torch.manual_seed(7)
    ours, visited = train_with(agent)
    assert len(visited) == SIZE * EPOCHS / 2
    assert not torch.equal(weights(ours), weights(full))
    torch.manual_seed(7)
    assert torch.equal(weights(ours), weights(train_without(visited, epoch_size=SIZE // 2)))


def test_watching_leaves_outputs_and_module_as_they_were():
    net = model().eval()
    before = copy.deepcopy(net.state_dict())
    x = torch.randn(4, 10)
    expected = net(x)
    agent = DataAgent(num_samples=SIZE, epochs=EPOCHS)
    agent.watch(net[3])
    assert torch.equal(net(x), expected)
    agent.unwatch()
    assert not net[3]._forward_hooks
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_a_second_watch_moves_the_hook():
    net = model()
    agent = DataAgent(num_samples=SIZE, epochs=EPOCHS)
    agent.watch(net[0])
    agent.watch(net[3])
    assert not net[0]._forward_hooks
    assert len(net[3]._forward_hooks) == 1


@pytest.mark.parametrize("compiled", [False, True])
def test_mixed_precision_and_compile(compiled):
    agent = DataAgent(
        num_samples=SIZE, epochs=4, config=DataAgentConfig(update_every=1, rollout_rows=16)
    )
    net = model()
    agent.watch(net[3])  # before the first call, so that the hook is compiled in
    forward = torch.compile(net, backend="aot_eager") if compiled else net
    loader = selection_loader(dataset(), agent, batch_size=BATCH_SIZE)
    for _ in agent.epochs():
        for x, y, index in loader:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                logits = forward(x)
                losses = F.cross_entropy(logits, y, reduction="none")
                loss = agent.learn(losses, index)
            assert loss.dtype == losses.dtype
            loss.backward()
    assert agent.metrics()["policy_updates"] == 4 * 3
    assert agent.policy.learner.networks.weights.dtype == torch.float32
    assert torch.isfinite(agent.expected_actions()).all()


def test_half_precision_losses_keep_their_dtype():
    agent = DataAgent(num_samples=8, epochs=4)
    agent.begin_epoch(0)
    losses = torch.rand(4, dtype=torch.bfloat16, requires_grad=True)
    index = agent.select(0).index[:4]
    loss = agent.learn(losses, index, logits=torch.zeros(4, 2), features=torch.ones(4, 3))
    assert loss.dtype == torch.bfloat16


def test_gradient_accumulation_is_the_users_own_line():
    agent = DataAgent(num_samples=SIZE, epochs=EPOCHS)
    net = model().eval()
    net.train()
    net[2].p = 0.0
    agent.watch(net[3])
    agent.begin_epoch(0)
    x, y = dataset().tensors
    chosen = agent.select(0).index[:32]
    for index in chosen.split(16):
        losses = F.cross_entropy(net(x[index]), y[index], reduction="none")
        (agent.learn(losses, index) / 2).backward()
    ours = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    agent.unwatch()
    F.cross_entropy(net(x[chosen]), y[chosen]).backward()
    for a, b in zip(ours, net.parameters(), strict=True):
        torch.testing.assert_close(a, b.grad)


def test_an_agent_restored_in_the_middle_trains_to_the_same_weights():
    def run(stop_at=None):
        """Train; at batch `stop_at` save, throw everything away, restore."""
        agent = DataAgent(num_samples=SIZE, epochs=EPOCHS, seed=2)
        net = model()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        step = 0
        for attempt in range(2):
            agent.watch(net[3])
            # A loader draws a seed whenever iteration starts: not from the generator of dropout.
            options = {"batch_size": BATCH_SIZE, "generator": torch.Generator()}
            loader = selection_loader(dataset(), agent, **options)
            for _ in agent.epochs():
                for x, y, index in loader:
                    losses = F.cross_entropy(net(x), y, reduction="none")
                    agent.learn(losses, index).backward()
                    optimizer.step()
                    optimizer.zero_grad()
                    step += 1
                    if step == stop_at and attempt == 0:
                        break
                else:
                    continue
                break
            else:
                return agent, net
            saved = agent.state_dict(), net.state_dict(), torch.get_rng_state()
            agent = DataAgent(num_samples=SIZE, epochs=EPOCHS, seed=2)
            net = model()
            agent.load_state_dict(saved[0])
            net.load_state_dict(saved[1])
            torch.set_rng_state(saved[2])
            optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        raise AssertionError("the second attempt did not finish")

    whole_agent, whole = run()
    for stop_at in (1, 20, 24, 47):
        agent, net = run(stop_at)
        assert torch.equal(weights(net), weights(whole)), f"stopped at batch {stop_at}"
        assert torch.equal(agent.expected_actions(), whole_agent.expected_actions())


def test_a_first_epoch_that_is_not_the_first_is_told():
    with pytest.warns(DataAgentWarning, match=r"epoch 3 is the first one that begins.*load_state"):
        DataAgent(num_samples=10, epochs=8).begin_epoch(3)
