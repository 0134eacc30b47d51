"""The plain loop on ranks that share the model (FSDP2), with a checkpoint for any number of them.

export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1  # restarts may otherwise find dead ranks
torchrun --nproc-per-node 2 --max-restarts 3 examples/fsdp_loop.py  # or on another number of ranks
"""

import os
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint.state_dict as dcp
import torch.nn.functional as F
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.utils.data import TensorDataset

from data_agent import DataAgent, selection_loader

EPOCHS, GLOBAL_BATCH = 10, 32
CHECKPOINT = Path("fsdp.ckpt")
WHOLE = dcp.StateDictOptions(full_state_dict=True, cpu_offload=True)


def main():
    dist.init_process_group("gloo", timeout=timedelta(minutes=10))  # nccl on GPUs
    torch.manual_seed(0)
    x = torch.randn(512, 8)
    train_set = TensorDataset(x, (x[:, 0] * x[:, 1] > 0).long())
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2))
    agent = DataAgent(num_samples=len(train_set), epochs=EPOCHS, keep_ratio=0.5)
    loader = selection_loader(train_set, agent, batch_size=GLOBAL_BATCH // dist.get_world_size())
    fully_shard(model)
    agent.watch(model[2])  # sharding leaves modules in their place
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    if CHECKPOINT.exists():  # every rank reads it and takes its part
        state = torch.load(CHECKPOINT, weights_only=True)
        dcp.set_model_state_dict(model, state["model"], options=WHOLE)
        dcp.set_optimizer_state_dict(model, optimizer, state["optimizer"], options=WHOLE)
        agent.load_state_dict(state["agent"])

    for _ in agent.epochs():  # after a restore: the epochs still to do
        for inputs, labels, index in loader:
            losses = F.cross_entropy(model(inputs), labels, reduction="none")
            agent.learn(losses, index, labels=labels).backward()
            optimizer.step()
            optimizer.zero_grad()
        weights, moments = dcp.get_state_dict(model, optimizer, options=WHOLE)  # on every rank ...
        state = {"model": weights, "optimizer": moments, "agent": agent.state_dict()}
        if dist.get_rank() == 0:  # ... and one writes, whole or not at all
            torch.save(state, "fsdp.tmp")
            os.replace("fsdp.tmp", CHECKPOINT)
    if dist.get_rank() == 0:
        print(agent.summary())
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
