"""Tables that real processes share: one policy, equal steps, a state in pieces for any of them."""

from itertools import chain

import pytest
import torch
import torch.nn.functional as F
from ranks import join_group, run_ranks
from torch import nn
from torch.utils.data import TensorDataset

from data_agent import DataAgent, DataAgentConfig, selection_loader
from data_agent.selecting.sharding import reshard
from data_agent.testing.runs import equal_states

SIZE, EPOCHS, BATCH, STOP = 166, 7, 8, 4  # the epoch in whose middle, or at whose end, it stops


def train(agent, loader, model, *, until=None, stop_after=None):
    """Samples of each batch, to the end of the run, of epoch `until`, or of some batches of it."""
    seen, optimizer = [], torch.optim.SGD(model.parameters(), lr=0.1)
    for epoch in agent.epochs():
        for number, (inputs, labels, index) in enumerate(loader):
            losses = F.cross_entropy(model(inputs), labels, reduction="none")
            agent.learn(losses, index).backward()
            optimizer.step()
            optimizer.zero_grad()
            seen.append((epoch, index.tolist()))
            if (epoch, number + 1) == (until, stop_after):
                return seen
        if epoch == until and stop_after is None:
            return seen
    return seen


def build(state=None, weights=None, **options):
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(SIZE, 6, generator=draws)
    config = DataAgentConfig(update_every=2, rollout_rows=24, **options)
    agent = DataAgent(SIZE, EPOCHS, seed=3, config=config, sharded=True)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2))
    if weights is not None:
        net.load_state_dict(weights)
    loader = selection_loader(TensorDataset(x, (x[:, 0] > 0).long()), agent, batch_size=BATCH)
    if state is not None:
        agent.load_state_dict(state)
    agent.watch(net[2])
    return agent, loader, nn.parallel.DistributedDataParallel(net), net


def whole_and_resumed(rank):
    """A whole run; the same one stopped in an epoch's middle and gone on; the end of an epoch."""
    join_group()
    agent, loader, model, _ = build()
    seen = train(agent, loader, model)
    whole = agent.state_dict()
    agent, loader, model, net = build()
    before = train(agent, loader, model, until=STOP, stop_after=2)
    agent, loader, model, net = build(agent.state_dict(), net.state_dict())
    after = train(agent, loader, model)
    resumed = agent.state_dict()
    agent, loader, model, net = build()
    train(agent, loader, model, until=STOP)
    at_end = {"state": agent.state_dict(), "weights": net.state_dict()}
    for state in (whole, resumed):
        del state["overhead_seconds"]
    is_same = [*before, *after] == seen and equal_states(whole, resumed)
    return {"seen": seen, "policy": policy_of(whole), "is_same": is_same, "at_end": at_end}


def saved_and_not(rank):
    """The batches of a run, and of one whose state is asked for at the end of each epoch."""
    join_group()
    agent, loader, model, _ = build(ranking="last-action")
    whole = train(agent, loader, model)
    agent, loader, model, _ = build(ranking="last-action")
    seen = []
    for epoch in range(EPOCHS):
        seen += train(agent, loader, model, until=epoch)
        agent.state_dict()
    table = agent.table()
    return whole, seen, {name: len(column) for name, column in table.items()}, table["index"]


def go_on(rank, pieces, weights):
    """The rest of a run, from the pieces of other ranks."""
    join_group()
    agent, loader, model, _ = build(pieces[rank], weights)
    return {"seen": train(agent, loader, model), "policy": policy_of(agent.state_dict())}


def policy_of(state):
    return {name: value for name, value in state["method"].items() if name != "table"}


def check_epochs(ranks, world):
    """Every epoch is K samples, each on the rank that keeps it, in equally many steps."""
    for epoch in {epoch for epoch, _ in ranks[0]["seen"]}:
        of_ranks = [[index for e, index in rank["seen"] if e == epoch] for rank in ranks]
        assert len({len(batches) for batches in of_ranks}) == 1
        samples = list(chain(*chain(*of_ranks)))
        assert len(samples) == len(set(samples)) == round(SIZE / 2)
        for rank, batches in enumerate(of_ranks):
            assert all(sample % world == rank for sample in chain(*batches))
    for rank in ranks[1:]:
        assert equal_states(ranks[0]["policy"], rank["policy"])


@pytest.mark.distributed
@pytest.mark.slow
def test_two_ranks_and_four_that_go_on_from_their_pieces(tmp_path):
    two = run_ranks(whole_and_resumed, tmp_path, world=2)
    check_epochs(two, 2)
    assert all(rank["is_same"] for rank in two)
    assert two[0]["policy"]["num_updates"] > 10
    pieces = reshard([rank["at_end"]["state"] for rank in two], 4)
    four = run_ranks(go_on, tmp_path, pieces, two[0]["at_end"]["weights"], world=4)
    check_epochs(four, 4)
    assert {epoch for epoch, _ in four[0]["seen"]} == set(range(STOP + 1, EPOCHS))


@pytest.mark.distributed
def test_asking_for_the_state_changes_nothing_and_a_table_is_of_the_ranks_part(tmp_path):
    """Actions at an epoch's end are drawn for this rank, whoever asks for them first."""
    indices = []
    for whole, seen, lengths, index in run_ranks(saved_and_not, tmp_path):
        assert seen == whole
        assert set(lengths.values()) == {SIZE // 2}
        indices.append(index.tolist())
    assert sorted(chain(*indices)) == list(range(SIZE))
