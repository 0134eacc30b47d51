"""Two real processes: disjoint batches, equal policies, feedback of both in one table."""

import os
from itertools import chain

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

from data_agent import DataAgent, DataAgentConfig, make_selector, selection_loader
from data_agent._distributed import gather_rows

SIZE, EPOCHS, BATCH_SIZE, WORLD = 101, 10, 6, 2


def train(method, rank):
    """One rank's run: what it saw in each epoch, and its state at the end."""
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(SIZE, 8, generator=draws)
    data = TensorDataset(x, (x[:, 0] > 0).long())
    options = {"config": DataAgentConfig(update_every=2, rollout_rows=24)}
    selector = make_selector(
        method,
        num_samples=SIZE,
        epochs=EPOCHS,
        keep_ratio=0.5,
        **(options if method == "data-agent" else {}),
    )
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    model = nn.parallel.DistributedDataParallel(net)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    selector.watch(net[2])
    loader = selection_loader(data, selector, batch_size=BATCH_SIZE)
    seen = []
    for _ in selector.epochs():
        batches = []
        for inputs, labels, index in loader:
            losses = F.cross_entropy(model(inputs), labels, reduction="none")
            selector.learn(losses, index).backward()
            optimizer.step()
            optimizer.zero_grad()
            batches.append(index.tolist())
        seen.append((batches, selector.select(selector.epoch).index.tolist()))
    return {"seen": seen, "state": selector.state_dict(), "kept": selector.schedule.num_kept}


def gather(rank):
    """Ranks with different numbers of rows, one of them without any."""
    index = torch.arange(3) + 2**53 if rank == 0 else torch.empty(0, dtype=torch.int64)
    values = torch.ones(3, 2) if rank == 0 else torch.empty(0, 0)
    return gather_rows(index, values)


def work(rank, method, folder):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=WORLD
    )
    try:
        result = gather(rank) if method == "gather" else train(method, rank)
        torch.save(result, f"{folder}/rank{rank}.pt")
        dist.barrier()
    finally:
        dist.destroy_process_group()
    # A thread of gloo that still releases a Python object while the interpreter shuts down ends
    # the process with SIGABRT (seen once): all is written, so leave without shutting down.
    os._exit(0)


@pytest.mark.distributed
@pytest.mark.parametrize("method", ["data-agent", "random"])
def test_two_ranks(method, tmp_path):
    mp.start_processes(work, args=(method, str(tmp_path)), nprocs=WORLD, start_method="spawn")
    first, second = (torch.load(tmp_path / f"rank{r}.pt", weights_only=True) for r in range(WORLD))
    assert first["kept"] == 51  # 4 rounds of 12 and a rest of 3 = 2 + 1

    for (mine, selection), (yours, other) in zip(first["seen"], second["seen"], strict=True):
        assert selection == other  # the same selection on both ranks
        assert [len(b) for b in mine] == [6, 6, 6, 6, 2]
        assert [len(b) for b in yours] == [6, 6, 6, 6, 1]
        assert sorted(chain(*mine, *yours)) == selection  # disjoint, and all of it

    if method == "data-agent":
        ours, theirs = (state["state"]["method"] for state in (first, second))
        assert ours["num_updates"] == theirs["num_updates"] == EPOCHS * 5 // 2
        assert ours["learner"]["tau"] == theirs["learner"]["tau"]
        for part in ("actor", "critic"):
            for name, tensor in ours["learner"][part].items():
                assert torch.equal(tensor, theirs["learner"][part][name])
        assert torch.equal(ours["table"]["parameters"], theirs["table"]["parameters"])
        # The last epoch's rows are still staged; all before it are in both tables.
        written = (ours["table"]["parameters"] != 1).any(1)
        assert written.all()


@pytest.mark.distributed
def test_a_rank_without_rows_still_takes_part_and_indices_stay_exact(tmp_path):
    mp.start_processes(work, args=("gather", str(tmp_path)), nprocs=WORLD, start_method="spawn")
    for rank in range(WORLD):
        index, values = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)
        assert index.tolist() == [2**53, 2**53 + 1, 2**53 + 2]  # a float would round these
        assert torch.equal(values, torch.ones(3, 2))


def test_agents_are_ordinary_in_one_process():
    agent = DataAgent(num_samples=10, epochs=8)
    assert len(selection_loader(TensorDataset(torch.arange(10)), agent, batch_size=5)) == 1
