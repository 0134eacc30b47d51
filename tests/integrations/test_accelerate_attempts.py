"""Accelerate: of several attempts at one run only the last one's selector is saved."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

pytest.importorskip("accelerate", reason="needs Accelerate: pip install '.[accelerate]'")

from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import find_executable_batch_size

from data_agent import DataAgent
from data_agent.integrations.accelerate import selection_loader

SIZE, EPOCHS = 64, 4
executable: Any = find_executable_batch_size  # without types
DATA = TensorDataset(torch.randn(SIZE, 4), torch.randint(0, 3, (SIZE,)))


@pytest.fixture(autouse=True)
def _fresh_accelerate():
    """Accelerate keeps its state in singletons."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def saved_in(folder):
    return sorted(path.name for path in folder.glob("custom_checkpoint_*"))


def train(agent, accelerator, batch_size, *, largest=99, stop_at=None):
    head = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(head.parameters(), 0.1)
    loader = selection_loader(DATA, agent, accelerator, batch_size=batch_size)
    head, optimizer, loader = accelerator.prepare(head, optimizer, loader)
    agent.watch(head)
    yield  # what comes before training
    steps = 0
    for _ in agent.epochs():
        for x, y, index in loader:
            losses = F.cross_entropy(head(x), y, reduction="none")
            if batch_size > largest:
                raise RuntimeError("CUDA out of memory.")
            accelerator.backward(agent.learn(losses, index))
            optimizer.step()
            optimizer.zero_grad()
            steps += 1
            if steps == stop_at:
                return


@pytest.mark.parametrize("frees", [True, False])
def test_attempts_that_were_given_up_are_not_saved_and_the_run_resumes(tmp_path, frees):
    accelerator, agents = Accelerator(cpu=True), []

    @executable(starting_batch_size=16)
    def run(batch_size):
        if frees:
            accelerator.free_memory()
        agents.append(DataAgent(SIZE, EPOCHS))
        list(train(agents[-1], accelerator, batch_size, largest=12, stop_at=6))
        accelerator.save_state(str(tmp_path))

    run()
    assert len(agents) > 1
    assert saved_in(tmp_path) == ["custom_checkpoint_0.pkl"]
    visits, batch_size = agents[-1].visits, agents[-1].schedule.batch_size
    _fresh = Accelerator(cpu=True)
    agent = DataAgent(SIZE, EPOCHS)
    going_on = train(agent, _fresh, batch_size)
    next(going_on)
    _fresh.load_state(str(tmp_path))
    assert agent.visits == visits
    assert not list(going_on)
    assert agent.visits == agent.schedule.total_visits


def test_an_attempt_that_failed_before_training_is_not_saved(tmp_path):
    accelerator = Accelerator(cpu=True)

    @executable(starting_batch_size=16)
    def run(batch_size):
        accelerator.free_memory()
        training = train(DataAgent(SIZE, EPOCHS), accelerator, batch_size, stop_at=2)
        next(training)
        if batch_size > 12:
            raise RuntimeError("CUDA out of memory.")
        list(training)
        accelerator.save_state(str(tmp_path))

    run()
    assert saved_in(tmp_path) == ["custom_checkpoint_0.pkl"]


def test_selectors_that_run_side_by_side_or_in_turn_are_all_saved(tmp_path):
    accelerator = Accelerator(cpu=True)
    twins = [DataAgent(SIZE, EPOCHS), DataAgent(SIZE, EPOCHS)]
    runs = [train(twin, accelerator, 8, stop_at=2) for twin in twins]
    for run in runs:
        next(run)
    for run in runs:
        list(run)
    other = train(DataAgent(SIZE, EPOCHS, seed=1), accelerator, 8)  # another run, not an attempt
    next(other)
    accelerator.save_state(str(tmp_path))
    assert len(saved_in(tmp_path)) == 3


def test_a_selector_in_training_is_not_replaced_by_its_twin(tmp_path):
    accelerator = Accelerator(cpu=True)
    first, second = DataAgent(SIZE, EPOCHS), DataAgent(SIZE, EPOCHS)
    training = train(first, accelerator, 8)
    next(training)
    next(first.epochs())  # successive halving: one epoch of this, then one of that
    other = train(second, accelerator, 8)
    next(other)
    accelerator.save_state(str(tmp_path))
    assert len(saved_in(tmp_path)) == 2
    assert not list(training)
    assert not list(other)
    assert first.visits == second.visits == first.schedule.total_visits


def test_a_second_loader_of_a_selector_registers_it_once(tmp_path):
    accelerator, agent = Accelerator(cpu=True), DataAgent(SIZE, EPOCHS)
    for _ in range(2):
        next(train(agent, accelerator, 8))
    accelerator.save_state(str(tmp_path))
    assert saved_in(tmp_path) == ["custom_checkpoint_0.pkl"]
