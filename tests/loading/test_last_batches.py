"""No batch of a selection is smaller than it must be, and models that need two samples train."""

import pytest
import torch
import torch.nn.functional as F
from ranks import join_group, run_ranks
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from data_agent import DataAgent, Feedback, IndexedDataset, SelectionSampler, selection_loader

SIZE, BATCH, EPOCHS = 130, 32, 4  # half of it is 65: a rest of one


def data(size=SIZE):
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(torch.randn(size, 4, generator=generator), torch.arange(size) % 3)


def model():
    """Fails on a batch of one: batch normalisation, and a `squeeze()` that removes its axis."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def train(loader, agent, *, stop=None):
    """Train as users do; the index of each batch."""
    net, seen = model(), []
    agent.watch(net[-1])
    for _ in agent.epochs():
        for x, y, index in loader:
            if len(seen) == stop:
                agent.unwatch()
                return seen
            losses = F.cross_entropy(net(x).squeeze(), y, reduction="none")
            agent.learn(losses, index).backward()
            seen.append(index)
    agent.unwatch()
    return seen


def lengths(batches):
    return [len(index) for index in batches]


def test_a_model_with_batch_normalisation_trains_on_the_whole_budget():
    agent = DataAgent(SIZE, EPOCHS)
    loader = selection_loader(data(), agent, batch_size=BATCH)
    assert len(loader) == 3
    assert len(loader.sampler) == 65
    seen = train(loader, agent)
    assert lengths(seen) == [32, 17, 16] * EPOCHS
    assert agent.visits == agent.schedule.total_visits == 65 * EPOCHS
    for epoch in range(EPOCHS):
        assert len(torch.cat(seen[3 * epoch : 3 * epoch + 3]).unique()) == 65


def test_worker_processes_and_a_given_loader_have_the_same_batches():
    plain, given = DataAgent(SIZE, EPOCHS), DataAgent(SIZE, EPOCHS)
    expected = [batch[-1] for batch in selection_loader(data(), plain, batch_size=BATCH)]
    loader = DataLoader(data(), batch_size=BATCH, shuffle=True, num_workers=2)
    loader = selection_loader(loader, given)
    assert (loader.batch_size, loader.drop_last) == (BATCH, False)
    assert all(map(torch.equal, expected, [batch[-1] for batch in loader]))


@pytest.mark.parametrize("size", [65, 96, 33])
def test_at_keep_ratio_one_the_batches_are_those_of_a_plain_loader(size):
    agent = DataAgent(size, EPOCHS, keep_ratio=1)
    ours = selection_loader(data(size), agent, batch_size=BATCH)
    theirs = DataLoader(IndexedDataset(data(size)), batch_size=BATCH, sampler=list(ours.sampler))
    assert len(ours) == len(theirs)
    assert [b[-1].tolist() for b in ours] == [b[-1].tolist() for b in theirs]


@pytest.mark.parametrize("stop", [1, 2, 4, 5])
def test_an_epoch_stopped_among_its_last_batches_goes_on_with_the_same_ones(stop):
    whole_agent = DataAgent(SIZE, EPOCHS)
    whole = train(selection_loader(data(), whole_agent, batch_size=BATCH), whole_agent)
    first, second = DataAgent(SIZE, EPOCHS), DataAgent(SIZE, EPOCHS)
    begun = train(selection_loader(data(), first, batch_size=BATCH), first, stop=stop)
    assert first.next_batch() == (stop // 3, stop % 3, True)
    loader = selection_loader(data(), second, batch_size=BATCH)
    second.load_state_dict(first.state_dict())
    assert second.next_batch() == (stop // 3, stop % 3, True)
    index = next(iter(loader))[-1]
    assert torch.equal(index, whole[stop])
    second.begin_epoch(stop // 3)
    size = len(index)
    second.observe(Feedback(index, torch.ones(size), torch.rand(size, 3), torch.rand(size, 8)))
    assert second.next_batch() == ((stop + 1) // 3, (stop + 1) % 3, True)
    assert lengths(begun) == lengths(whole[:stop])


def test_a_sampler_in_a_plain_loader_leaves_a_rest_of_one_out():
    agent = DataAgent(SIZE, EPOCHS)
    sampler = SelectionSampler(agent, batch_size=BATCH)
    loader = DataLoader(IndexedDataset(data()), batch_size=BATCH, sampler=sampler)
    assert agent.schedule.num_left_out == 1
    seen = train(loader, agent)
    assert lengths(seen) == [32, 32] * EPOCHS
    assert agent.visits == agent.schedule.total_visits


def on_two_ranks(rank, size):
    join_group()
    agent = DataAgent(size, EPOCHS)
    loader = selection_loader(data(size), agent, batch_size=16)
    num_batches = len(loader)
    seen = train(loader, agent)
    return num_batches, seen, agent.metrics()["planned_cost"]


@pytest.mark.distributed
def test_two_ranks_have_no_batch_of_one(tmp_path):
    shares = run_ranks(on_two_ranks, tmp_path, 132)  # 66 samples in rounds of 32: a rest of 2
    for num_batches, seen, planned_cost in shares:
        assert num_batches == 3
        assert lengths(seen) == [16, 9, 8] * EPOCHS
        assert planned_cost == 0.5
    together = torch.cat([torch.cat(seen[:3]) for _, seen, _ in shares])
    assert len(together.unique()) == 66
