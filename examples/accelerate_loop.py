"""Plain Accelerate on half of the data; started again, it goes on where it stopped.

accelerate launch --num_processes 2 examples/accelerate_loop.py
"""

import os
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from data_agent import DataAgent
from data_agent.integrations.accelerate import selection_loader


def rings(num_samples: int, seed: int) -> TensorDataset:
    x = torch.randn(num_samples, 2, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(x, (x.norm(dim=1) * 2).long().clamp(max=3))


def main(folder: str = "runs/accelerate", epochs: int = 12, stop_after: int | None = None) -> float:
    accelerator = Accelerator(mixed_precision="bf16", gradient_accumulation_steps=2)
    train_set, test_set = rings(2000, seed=0), rings(500, seed=1)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 4))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

    agent = DataAgent(num_samples=len(train_set), epochs=epochs, keep_ratio=0.5, seed=0)
    loader = selection_loader(train_set, agent, accelerator, batch_size=32)
    tests = DataLoader(test_set, batch_size=100)
    model, optimizer, loader, tests = accelerator.prepare(model, optimizer, loader, tests)
    agent.watch(accelerator.unwrap_model(model)[2])
    if os.path.isdir(folder):
        accelerator.load_state(folder)  # the agent too: its loader registered it

    for epoch in agent.epochs():  # those still to do; the first goes on after what was seen
        for x, y, index in loader:
            with accelerator.accumulate(model):
                losses = F.cross_entropy(model(x), y, reduction="none")
                loss = agent.learn(losses, index, labels=y)
                accelerator.backward(loss)  # divides by the accumulation steps
                optimizer.step()
                optimizer.zero_grad()
        accelerator.save_state(folder)  # on every process
        if epoch + 1 == stop_after:
            break
    accelerator.print(agent.summary())
    model.eval()
    with torch.no_grad():
        right: Any = [accelerator.gather_for_metrics(model(x).argmax(1) == y) for x, y in tests]
    accelerator.end_training()
    return torch.cat(right).float().mean().item()


if __name__ == "__main__":
    print(f"accuracy {main():.3f}")
