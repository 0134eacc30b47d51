"""Accelerate: an index that the loop turns around is noticed, whatever deals the batches."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

pytest.importorskip("accelerate", reason="needs Accelerate: pip install '.[accelerate]'")

from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from ranks import run_ranks

from data_agent import DataAgent
from data_agent.errors import InputError
from data_agent.integrations.accelerate import selection_loader

SIZE, BATCH_SIZE = 96, 8


@pytest.fixture(autouse=True)
def _fresh_accelerate():
    """Accelerate keeps its state in singletons."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def plain(index):
    return index


def flip(index):
    return index.flip(0)


def roll(index):
    return index.roll(1)


def put_in_order(index):
    return index.sort().values


def train(turn, num_workers=0, keep_ratio=0.5):
    draw = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.randn(SIZE, 4, generator=draw), torch.arange(SIZE) % 3)
    accelerator, head = Accelerator(cpu=True), nn.Linear(4, 3)
    agent = DataAgent(SIZE, 3, keep_ratio=keep_ratio)
    loader = selection_loader(
        data, agent, accelerator, batch_size=BATCH_SIZE, num_workers=num_workers
    )
    head, loader = accelerator.prepare(head, loader)
    agent.watch(accelerator.unwrap_model(head))
    for _ in agent.epochs():
        for x, y, index in loader:
            losses = F.cross_entropy(head(x), y, reduction="none")
            accelerator.backward(agent.learn(losses, turn(index)))
    return agent.visits, agent.schedule.total_visits


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_index_as_it_came_is_right(num_workers):
    visits, planned = train(plain, num_workers)
    assert visits == planned


@pytest.mark.parametrize("turn", [flip, roll, put_in_order])
@pytest.mark.parametrize("keep_ratio", [0.5, 1.0])
def test_an_index_that_the_loop_turns_around_is_noticed(turn, keep_ratio):
    with pytest.raises(InputError, match="in another order than the loader gave them out"):
        train(turn, keep_ratio=keep_ratio)


def on_a_rank(rank):
    visits, planned = train(plain)
    message = ""
    try:
        AcceleratorState._reset_state()
        GradientState._reset_state()
        train(flip)
    except InputError as error:
        message = str(error)
    return visits >= planned, "in another order" in message


@pytest.mark.distributed
def test_on_two_processes(tmp_path):
    assert run_ranks(on_a_rank, tmp_path) == [(True, True)] * 2
