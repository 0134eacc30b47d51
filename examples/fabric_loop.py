"""Lightning Fabric with a selection: the plain loop; the agent is saved as Fabric saves a model.

pip install '.[lightning]'  # in a checkout
python examples/fabric_loop.py
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from lightning.fabric import Fabric
from torch import nn
from torch.utils.data import TensorDataset

from data_agent import DataAgent, selection_loader

EPOCHS = 10


def main(folder="."):
    path = Path(folder) / "fabric.ckpt"
    fabric = Fabric(accelerator="auto")
    fabric.launch()  # before the loader: from here on the processes know each other

    x = torch.randn(512, 8)
    train_set = TensorDataset(x, (x[:, 0] * x[:, 1] > 0).long())
    body, head = nn.Linear(8, 32), nn.Linear(32, 2)
    agent = DataAgent(num_samples=len(train_set), epochs=EPOCHS, keep_ratio=0.5)
    agent.watch(head)  # its input is the feature, its output the logits
    plain = nn.Sequential(body, nn.ReLU(), head)
    model, optimizer = fabric.setup(plain, torch.optim.Adam(plain.parameters(), lr=1e-2))
    loader = fabric.setup_dataloaders(selection_loader(train_set, agent, batch_size=32))

    state = {"model": model, "optimizer": optimizer, "agent": agent}
    if path.exists():
        fabric.load(path, state)
    for _ in agent.epochs():  # after a restore: the epochs still to do
        for x, y, index in loader:
            losses = F.cross_entropy(model(x), y, reduction="none")
            fabric.backward(agent.learn(losses, index, labels=y))
            optimizer.step()
            optimizer.zero_grad()
        fabric.save(path, state)
    fabric.print(agent.summary())
    return agent


if __name__ == "__main__":
    main()
