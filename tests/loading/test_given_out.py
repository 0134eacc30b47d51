"""A loader tells the selector what it gives out, whoever made it; a loader that begins is new."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from data_agent import DataAgent, IndexedDataset, SelectionSampler, selection_loader
from data_agent.errors import InputError

SIZE, BATCH_SIZE = 96, 8
DRAW = torch.Generator().manual_seed(0)
DATA = TensorDataset(
    torch.randn(SIZE, 4, generator=DRAW), torch.randint(0, 3, (SIZE,), generator=DRAW)
)

TURNED = {
    "flipped": lambda index: index.flip(0),
    "rolled": lambda index: index.roll(1),
    "sorted": lambda index: index.sort().values,
    "shuffled": lambda index: index[torch.randperm(len(index))],
}


def own_loader(agent, num_workers=0, knows_batch=True):
    sampler = SelectionSampler(agent, batch_size=BATCH_SIZE if knows_batch else None)
    return DataLoader(
        IndexedDataset(DATA), batch_size=BATCH_SIZE, sampler=sampler, num_workers=num_workers
    )


def learn(agent, head, batch, turn=lambda index: index):
    x, y, index = batch
    return agent.learn(F.cross_entropy(head(x), y, reduction="none"), turn(index), labels=y)


@pytest.mark.parametrize("turn", TURNED.values(), ids=TURNED)
@pytest.mark.parametrize("knows_batch", [True, False])
def test_an_index_that_the_loop_turns_around_is_noticed_in_a_loader_of_ones_own(turn, knows_batch):
    agent, head = DataAgent(SIZE, 4, keep_ratio=0.5), nn.Linear(4, 3)
    agent.watch(head)
    agent.begin_epoch(0)

    def train():
        for batch in own_loader(agent, knows_batch=knows_batch):
            learn(agent, head, batch, turn)

    with pytest.raises(InputError, match="in another order than the loader gave them out"):
        train()
    assert agent.num_observed <= BATCH_SIZE  # a small batch may be in order by chance


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("knows_batch", [True, False])
def test_a_loader_of_ones_own_trains_to_the_end_without_a_false_word(num_workers, knows_batch):
    agent, head = DataAgent(SIZE, 4, keep_ratio=0.5), nn.Linear(4, 3)
    agent.watch(head)
    loader = own_loader(agent, num_workers, knows_batch)
    for _ in agent.epochs():
        held_back = None
        for batch in loader:  # one batch is held back, as a loop that looks ahead does
            if held_back is not None:
                learn(agent, head, held_back)
            held_back = batch
        learn(agent, head, held_back)
    assert agent.visits == agent.schedule.total_visits


@pytest.mark.parametrize("make", [own_loader, lambda a: selection_loader(DATA, a, batch_size=8)])
def test_a_loader_that_begins_forgets_the_forward_of_a_step_that_was_cut_short(make):
    agent, head = DataAgent(SIZE, 4, keep_ratio=0.5), nn.Linear(4, 3)
    agent.watch(head)
    loader, epochs = make(agent), agent.epochs()
    next(epochs)
    for x, _, _ in loader:  # the inner loop of a notebook's cell, interrupted
        head(x)
        break
    for batch in loader:  # and run again
        learn(agent, head, batch)
    assert agent.num_observed == agent.schedule.num_kept
