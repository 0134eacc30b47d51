"""What the agent adds to a training step, against the plain loop, measured side by side.

    python benchmarks/overhead.py                # table, and benchmarks/results/overhead.json
    python benchmarks/overhead.py --device cuda --output benchmarks/results/overhead_gpu.json

Each round times a block of plain steps and a block of agent steps, in turns, on the same model; a
block is one policy update long (10 steps). The ratio is that of the medians over rounds.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from data_agent import DataAgent
from data_agent_lab.runs.environment import describe_environment
from data_agent_lab.training.models import build_model

BLOCK = 10
CPU_MODELS = {
    # name: (architecture, width, image size, batch size)
    "small ResNet (width 16), 32x32": ("resnet-small", 16, 32, 128),
    "ResNet-18 (width 64), 32x32": ("resnet-18", 64, 32, 16),
}
GPU_MODELS = {
    "ResNet-18 (width 64), 32x32": ("resnet-18", 64, 32, 128),
    "ResNet-18, batch 1024": ("resnet-18", 64, 32, 1024),
    "ResNet-50 (width 64), 64x64": ("resnet-50", 64, 64, 128),
}
FEATURES = [64, 256, 512, 1024, 2048]


def with_features(network: nn.Module, width: int) -> nn.Module:
    """Put a linear layer before the head, so that features are `width` wide."""
    network.body = nn.Sequential(network.body, nn.Linear(network.head.in_features, width))
    network.head = nn.Linear(width, network.head.out_features)
    return network


def measure(
    name: str, model: tuple, num_features: int, *, rounds: int, device: torch.device
) -> dict:
    """Milliseconds a step, plain and with the agent; on a GPU under bfloat16 autocast."""
    architecture, width, size, batch_size = model
    torch.manual_seed(0)
    network = build_model(architecture, in_channels=3, num_classes=10, image_size=size, width=width)
    network = with_features(network, num_features).to(device)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    num_samples = 50_000
    agent = DataAgent(num_samples, 200, keep_ratio=0.5)
    agent.use_loader(batch_size)
    agent.begin_epoch(0)
    chosen = agent.select(0).index
    images = torch.randn(batch_size, 3, size, size, device=device)
    labels = torch.randint(0, 10, (batch_size,), device=device)
    position = 0

    def block(*, with_agent: bool) -> float:
        nonlocal position
        agent.watch(network.head) if with_agent else agent.unwatch()
        _wait_for(device)
        start = time.perf_counter()
        for _ in range(BLOCK):
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                losses = F.cross_entropy(network(images), labels, reduction="none")
            if with_agent:
                index = chosen[position : position + batch_size]
                position = (position + batch_size) % (len(chosen) - batch_size)
                agent._running.num_observed = 0  # one endless epoch
                loss = agent.learn(losses, index)
            else:
                loss = losses.mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        _wait_for(device)
        return (time.perf_counter() - start) / BLOCK * 1e3

    for with_agent in (True, False):
        block(with_agent=with_agent)
    pairs = [(block(with_agent=False), block(with_agent=True)) for _ in range(rounds)]
    plain, agent_ms = (statistics.median(column) for column in zip(*pairs, strict=True))
    return {
        "model": name,
        "features": num_features,
        "batch_size": batch_size,
        "plain_ms": round(plain, 3),
        "agent_ms": round(agent_ms, 3),
        "added_ms": round(agent_ms - plain, 3),
        "added_percent": round(100 * (agent_ms / plain - 1), 2),
        "rounds": rounds,
    }


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    """Measure all models and widths, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/overhead.json"))
    options = parser.parse_args()
    device = torch.device(options.device)
    rows = []
    print(f"{'model':32} {'features':>8} {'plain ms':>9} {'agent ms':>9} {'added':>8}")
    for name, model in (GPU_MODELS if device.type == "cuda" else CPU_MODELS).items():
        for num_features in FEATURES:
            row = measure(name, model, num_features, rounds=options.rounds, device=device)
            rows.append(row)
            print(
                f"{name:32} {num_features:8} {row['plain_ms']:9.2f} {row['agent_ms']:9.2f} "
                f"{row['added_percent']:7.1f}%",
                flush=True,
            )
    result = {"environment": describe_environment(options.device), "block": BLOCK, "rows": rows}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {options.output}")


if __name__ == "__main__":
    main()
