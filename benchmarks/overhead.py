"""What choosing adds to a training step: ours and others' bookkeeping beside the plain loop.

    python benchmarks/overhead.py                # table, and benchmarks/results/overhead.json
    python benchmarks/overhead.py --device cuda --output benchmarks/results/overhead_gpu.json
    python benchmarks/overhead.py --compiled     # the same with torch.compile

All run in one process and in turns on the same model: a round times a block of steps of every
kind, on a CPU step by step in turns, so that what else the machine does meets all alike, and the
ratio is the median of the rounds' ratios. A block is as long as ours lets batches wait (64 steps),
so that each holds its share of policy updates. Ours are as in a long run (39,000 steps). Beside
them, written anew in a few lines each:

- InfoBatch's, as `InfoBatch.update` of its release does it: the batch's weights go to the device,
  its losses come to the host, every step (Qin et al. 2024, https://arxiv.org/abs/2303.04947,
  https://github.com/NUS-HPC-AI-Lab/InfoBatch).
- the paper's, as its algorithm is published (https://arxiv.org/abs/2603.07433): for every batch
  signals, a policy forward, actions and log densities; every 10 batches four epochs of PPO on all
  of their rows, by autograd. Its release cannot be imported (a module is missing).

Then whole runs: all epochs of a training loop with its loader, without evaluation, at keep ratio
0.5 and in full, one step of the former and two of the latter in turns.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from data_agent import Selector, make_selector, selection_loader
from data_agent.agent.reward import adaptive_weights, relative_losses, utility
from data_agent_lab.runs.environment import describe_environment
from data_agent_lab.training.models import build_model

NUM_SAMPLES, EPOCHS, CLASSES = 50_000, 200, 10
BLOCK = 64
CPU_MODELS = {
    # name: (architecture, width, image size, batch size)
    "small CNN, 16x16, batch 48": ("cnn", 8, 16, 48),
    "small CNN, 32x32": ("cnn", 8, 32, 128),
    "small ResNet (width 16), 32x32": ("resnet-small", 16, 32, 128),
    "ResNet-18 (width 64), 32x32": ("resnet-18", 64, 32, 16),
}
GPU_MODELS = {
    "ResNet-18 (width 64), 32x32": ("resnet-18", 64, 32, 128),
    "ResNet-18, batch 1024": ("resnet-18", 64, 32, 1024),
    "ResNet-50 (width 64), 64x64": ("resnet-50", 64, 64, 128),
}
FEATURES = [64, 512, 2048]
# Whole runs: (architecture, width, image size, batch size), samples, epochs.
CPU_RUNS = (("resnet-small", 16, 16, 128), 5_120, 8), (("resnet-small", 16, 32, 128), 5_120, 8)
GPU_RUNS = ((("resnet-18", 64, 32, 128), 50_000, 8),)

KINDS_OF_RUNS = "full", "random", "data-agent", "label-aware"

Learn = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
"""(losses, logits, features, labels, index) -> the loss to backpropagate."""


class Ours:
    """One endless epoch of a selector."""

    def __init__(self, method: str, batch_size: int) -> None:
        options = {"num_samples": NUM_SAMPLES, "epochs": EPOCHS, "keep_ratio": 0.5}
        self.selector: Selector = make_selector(method, **options, seed=0)
        self.selector.use_loader(batch_size)
        self.selector.begin_epoch(0)
        self._batches = self.selector.select(0).index.split(batch_size)[:-1]
        self._number = 0

    def learn(
        self, losses: Tensor, logits: Tensor, features: Tensor, labels: Tensor, index: Tensor
    ) -> Tensor:
        """The next batch of the epoch; from its end on, the epoch again."""
        del index
        if self._number % len(self._batches) == 0:
            running = self.selector._running
            running.num_observed = 0
            running.observed.marks.zero_()
            self.selector._recorder.staging.clear()
        batch = self._batches[self._number % len(self._batches)]
        self._number += 1
        return self.selector.learn(losses, batch, logits=logits, features=features, labels=labels)


class InfoBatch:
    """A score and a weight a sample, on the host."""

    def __init__(self) -> None:
        self._scores, self._weights = torch.full((NUM_SAMPLES,), torch.inf), torch.ones(NUM_SAMPLES)

    def learn(self, losses: Tensor, *rest: Tensor) -> Tensor:
        """Weights to the device, losses to the host."""
        index = rest[-1]
        weights = self._weights[index].to(losses.device)
        self._scores[index] = losses.detach().clone().cpu()
        return (losses * weights).mean()


class Paper:
    """The published algorithm on every batch, by modules, distributions and autograd."""

    def __init__(self, width: int, device: torch.device) -> None:
        self._actor, self._critic = (
            nn.Sequential(
                *(nn.Linear(width, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU()),
                nn.Linear(128, outputs),
            ).to(device)
            for outputs in (2, 1)
        )
        parameters = [*self._actor.parameters(), *self._critic.parameters()]
        self._adam = torch.optim.Adam(parameters, lr=3e-4, eps=1e-5, weight_decay=5e-4)
        self._actions = torch.zeros(NUM_SAMPLES)
        self._rollout: list[tuple[Tensor, ...]] = []

    def learn(
        self, losses: Tensor, logits: Tensor, features: Tensor, labels: Tensor, index: Tensor
    ) -> Tensor:
        """Signals, an action for each sample, its reward; every ten batches an update."""
        del labels
        with torch.no_grad():
            state, logs = features.float(), torch.log_softmax(logits.float(), 1)
            entropy = -(logs.exp() * logs).sum(1) / torch.tensor(float(CLASSES)).log()
            signals = torch.stack([relative_losses(losses.float()), entropy])
            policy = self._policy(state)
            action = policy.sample().clamp(1e-6, 1 - 1e-6)
            reward = action * utility(signals, adaptive_weights(signals))
            self._actions[index] = action.cpu()
            self._rollout.append((state, action, policy.log_prob(action), reward))
        if len(self._rollout) == 10:
            self._update()
        return losses.mean()

    def _policy(self, state: Tensor) -> torch.distributions.Beta:
        alpha, beta = (1 + F.softplus(self._actor(state))).unbind(1)
        return torch.distributions.Beta(alpha, beta, validate_args=False)

    def _update(self) -> None:
        state, action, old, reward = map(torch.cat, zip(*self._rollout, strict=True))
        self._rollout.clear()
        with torch.no_grad():
            advantage = reward - self._critic(state)[:, 0]
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        for _ in range(4):
            ratio = (self._policy(state).log_prob(action) - old).exp()
            gain = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean()
            loss = F.mse_loss(self._critic(state)[:, 0], reward) - gain
            self._adam.zero_grad()
            loss.backward()
            self._adam.step()


def plain(losses: Tensor, *_: Tensor) -> Tensor:
    """The loop without anybody."""
    return losses.mean()


def with_features(network: nn.Module, width: int) -> nn.Module:
    """Put a linear layer before the head, so that features are `width` wide."""
    network.body = nn.Sequential(network.body, nn.Linear(network.head.in_features, width))
    network.head = nn.Linear(width, network.head.out_features)
    return network


def measure(
    model: tuple, width: int, *, rounds: int, block: int, device: torch.device, compiled: bool
) -> list[dict[str, float]]:
    """Milliseconds a step of each kind, in each round; on a GPU under bfloat16 autocast."""
    _, _, size, batch_size = model
    torch.manual_seed(0)
    network = with_features(build(model), width).to(device)
    body = torch.compile(network.body) if compiled else network.body
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    images = torch.randn(batch_size, 3, size, size, device=device)
    labels = torch.randint(0, CLASSES, (batch_size,), device=device)
    index = torch.arange(batch_size)
    kinds: dict[str, Learn] = {
        "plain": plain,
        "policy": Ours("data-agent", batch_size).learn,
        "label-aware": Ours("label-aware", batch_size).learn,
        "InfoBatch": InfoBatch().learn,
        "paper": Paper(width, device).learn,
    }

    turn = block if device.type == "cuda" else 1  # waiting for a GPU at each step would slow it

    def steps(learn: Learn) -> float:
        _wait_for(device)
        start = time.perf_counter()
        for _ in range(turn):
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                features = body(images)
                logits = network.head(features)
                losses = F.cross_entropy(logits, labels, reduction="none")
            learn(losses, logits.detach(), features.detach(), labels, index).backward()
            optimizer.step()
            optimizer.zero_grad()
        _wait_for(device)
        return time.perf_counter() - start

    def times() -> dict[str, float]:
        seconds = dict.fromkeys(kinds, 0.0)
        for number in range(block // turn):
            for name in rotated(list(kinds), number):
                seconds[name] += steps(kinds[name])
        return {name: 1e3 * total / block for name, total in seconds.items()}

    times()
    return [times() for _ in range(rounds)]


def summarised(rounds: list[dict[str, float]]) -> tuple[dict[str, float], dict[str, float]]:
    """Of each kind the median time, and the median ratio to the first of round 0 in each round."""
    first, names = next(iter(rounds[0])), list(rounds[0])
    medians = {name: statistics.median(row[name] for row in rounds) for name in names}
    ratios = {name: statistics.median(row[name] / row[first] for row in rounds) for name in names}
    return medians, ratios


def rotated(names: list[str], turn: int) -> list[str]:
    """The names in an order that begins with another one in each turn."""
    start = turn % len(names)
    return names[start:] + names[:start]


def measure_runs(
    model: tuple, num_samples: int, epochs: int, *, rounds: int, device: torch.device
) -> list[dict[str, float]]:
    """Seconds of a whole run of each kind, in each round; a round of three epochs goes before."""
    _, _, size, batch_size = model
    torch.manual_seed(0)
    images = torch.randn(num_samples, 3, size, size)
    data = TensorDataset(images, torch.randint(0, CLASSES, (num_samples,)))
    turn = BLOCK if device.type == "cuda" else 1

    def steps(kind: str, epochs: int) -> Iterator[None]:
        torch.manual_seed(0)
        network = build(model).to(device)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
        for images, labels, losses_to_loss in batches_of(kind, data, epochs, batch_size, network):
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                logits = network(images.to(device))
                losses = F.cross_entropy(logits, labels.to(device), reduction="none")
            losses_to_loss(losses).backward()
            optimizer.step()
            optimizer.zero_grad()
            yield

    def times(epochs: int) -> dict[str, float]:
        runs = {kind: steps(kind, epochs) for kind in KINDS_OF_RUNS}
        seconds, unfinished = dict.fromkeys(runs, 0.0), list(runs)
        while unfinished:
            for kind in list(unfinished):
                number = 2 * turn if kind == "full" else turn  # so that all end together
                start = time.perf_counter()
                if sum(1 for _ in islice(runs[kind], number)) < number:
                    unfinished.remove(kind)
                _wait_for(device)
                seconds[kind] += time.perf_counter() - start
        return seconds

    times(3)
    return [times(epochs) for _ in range(rounds)]


def batches_of(
    kind: str, data: TensorDataset, epochs: int, batch_size: int, network: nn.Module
) -> Iterator[tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]]:
    """Images, labels and what makes one loss of their losses, for each step of a run."""
    if kind == "full":
        loader = DataLoader(data, batch_size, shuffle=True)
        for _ in range(epochs):
            yield from ((images, labels, torch.mean) for images, labels in loader)
        return
    options = {"num_samples": len(data), "epochs": epochs, "keep_ratio": 0.5}
    selector = make_selector(kind, **options, seed=0)
    selector.watch(network.head)
    loader = selection_loader(data, selector, batch_size=batch_size)
    for _ in selector.epochs():
        for images, labels, index in loader:
            told = {"labels": labels} if kind == "label-aware" else {}
            yield images, labels, partial(selector.learn, index=index, **told)


def rounded(values: dict[str, float]) -> dict[str, float]:
    """To four places."""
    return {name: round(value, 4) for name, value in values.items()}


def build(model: tuple) -> nn.Module:
    """The model of a row, freshly initialised."""
    architecture, channels, size, _ = model
    return build_model(
        architecture, in_channels=3, num_classes=CLASSES, image_size=size, width=channels
    )


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    """Measure all models and widths, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--block", type=int, default=BLOCK, help="steps of each kind in a round")
    parser.add_argument("--features", type=int, nargs="+", default=FEATURES)
    parser.add_argument("--models", type=int, default=4, help="the first so many")
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/overhead.json"))
    options = parser.parse_args()
    device = torch.device(options.device)
    how = {"rounds": options.rounds, "block": options.block, "compiled": options.compiled}
    run = partial(measure, **how, device=device)
    models = GPU_MODELS if device.type == "cuda" else CPU_MODELS
    rows = []
    print(f"{'model':32} {'features':>8} {'plain ms':>9}   ratio to it")
    for name, model in list(models.items())[: options.models]:
        for width in options.features:
            times, ratios = summarised(run(model, width))
            rows.append({"model": name, "features": width, "batch_size": model[3]})
            rows[-1] |= {"ms": rounded(times), "ratio": rounded(ratios)}
            shown = "  ".join(f"{kind} {ratio:.3f}" for kind, ratio in list(ratios.items())[1:])
            print(f"{name:32} {width:8} {times['plain']:9.2f}   {shown}", flush=True)
    whole_runs = []
    for model, num_samples, epochs in GPU_RUNS if device.type == "cuda" else CPU_RUNS:
        seconds = measure_runs(model, num_samples, epochs, rounds=options.rounds, device=device)
        times, ratios = summarised(seconds)
        shown = "  ".join(f"{kind} {ratio:.3f}" for kind, ratio in list(ratios.items())[1:])
        print(f"whole run, {' '.join(map(str, model)):30} {times['full']:9.2f} s   {shown}")
        whole_runs.append({"model": model, "num_samples": num_samples, "epochs": epochs})
        whole_runs[-1] |= {"seconds": rounded(times), "ratio": rounded(ratios), "rounds": seconds}
    result = {
        "environment": describe_environment(options.device),
        **how,
        "rows": rows,
        "whole_runs": whole_runs,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {options.output}")


if __name__ == "__main__":
    main()
