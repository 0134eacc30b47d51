"""The plain loop on several ranks (DDP), with a checkpoint that goes on after any interruption.

export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1  # restarts may otherwise find dead ranks
torchrun --nproc-per-node 2 --max-restarts 3 examples/ddp_loop.py  # or on another number of ranks
"""

import os
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import TensorDataset

from data_agent import DataAgent, selection_loader

EPOCHS, GLOBAL_BATCH = 10, 32
CHECKPOINT = Path("ddp.ckpt")


def main():
    dist.init_process_group("gloo", timeout=timedelta(minutes=10))  # nccl on GPUs
    torch.manual_seed(0)
    x = torch.randn(512, 8)
    train_set = TensorDataset(x, (x[:, 0] * x[:, 1] > 0).long())
    head = nn.Linear(32, 2)
    plain = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), head)
    agent = DataAgent(num_samples=len(train_set), epochs=EPOCHS, keep_ratio=0.5)
    agent.watch(head)  # the inner module, not the wrapped one
    loader = selection_loader(train_set, agent, batch_size=GLOBAL_BATCH // dist.get_world_size())
    if CHECKPOINT.exists():  # every rank reads it
        state = torch.load(CHECKPOINT, weights_only=True)
        plain.load_state_dict(state["model"])
        agent.load_state_dict(state["agent"])
    model = DistributedDataParallel(plain)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    if CHECKPOINT.exists():
        optimizer.load_state_dict(state["optimizer"])

    for _ in agent.epochs():  # after a restore: the epochs still to do
        for inputs, labels, index in loader:
            losses = F.cross_entropy(model(inputs), labels, reduction="none")
            agent.learn(losses, index, labels=labels).backward()
            optimizer.step()
            optimizer.zero_grad()
        state = {"model": plain.state_dict(), "optimizer": optimizer.state_dict()}
        state["agent"] = agent.state_dict()  # every rank calls it ...
        if dist.get_rank() == 0:  # ... and one writes, whole or not at all
            torch.save(state, "ddp.tmp")
            os.replace("ddp.tmp", CHECKPOINT)
    if dist.get_rank() == 0:
        print(agent.summary())
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
