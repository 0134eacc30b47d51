"""A compiled model goes on bitwise where all its batches run by one code."""

import io
import shutil

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

from data_agent import DataAgent, selection_loader

SIZE, EPOCHS, BATCH_SIZE = 60, 4, 8  # of 30 samples an epoch the last batch has 6
X = torch.randn(SIZE, 6, generator=torch.Generator().manual_seed(0))
DATA = TensorDataset(X, (X[:, 0] > 0).long())


def build():
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Linear(6, 133), nn.BatchNorm1d(133), nn.GELU(), nn.Dropout(0.3), nn.Linear(133, 2)
    )
    agent = DataAgent(SIZE, EPOCHS, keep_ratio=0.5, seed=3)
    agent.watch(net[4])
    return net, agent, torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)


def train(net, agent, optimizer, *, save_at=None):
    """The weights at the end, and what was saved after `save_at` steps."""
    forward = torch.compile(net, dynamic=False)
    loader = selection_loader(DATA, agent, batch_size=BATCH_SIZE, generator=torch.Generator())
    saved, step = io.BytesIO(), 0
    for _ in agent.epochs():
        for x, y, index in loader:
            losses = F.cross_entropy(forward(x), y, reduction="none")
            agent.learn(losses, index).backward()
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            if step == save_at:
                parts = {"net": net, "agent": agent, "optimizer": optimizer}
                state = {name: part.state_dict() for name, part in parts.items()}
                torch.save({**state, "random": torch.get_rng_state()}, saved)
    saved.seek(0)
    return torch.cat([p.detach().flatten() for p in net.parameters()]), saved


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_a_compiled_model_without_dynamic_shapes_goes_on_bitwise(monkeypatch):
    monkeypatch.setattr("torch._inductor.config.compile_threads", 1)  # no pool that stays
    weights, saved = train(*build(), save_at=6)  # behind the first smaller batch
    torch._dynamo.reset()  # another process
    net, agent, optimizer = build()
    state = torch.load(saved, weights_only=True)
    net.load_state_dict(state["net"])
    agent.load_state_dict(state["agent"])
    optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["random"])
    resumed, _ = train(net, agent, optimizer)
    assert torch.equal(resumed, weights)
