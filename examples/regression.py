"""Regression: difficulty alone, or with an uncertainty of the model's own.

    python examples/regression.py

How far diabetes goes on in a year, from ten measurements (scikit-learn brings 442 patients). A
squared error says nothing of how sure a model is; one that tells a deviation with its mean does.
"""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_diabetes
from torch import nn
from torch.utils.data import TensorDataset

from data_agent import make_selector, selection_loader
from data_agent.losses import regression_losses

EPOCHS, TRAIN, SEEDS = 30, 300, 3


def data():
    """Measurements `[N, 10]` and what is to be told `[N]`, both of mean 0 and deviation 1."""
    x, y = (torch.from_numpy(part).float() for part in load_diabetes(return_X_y=True))
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    return tuple((part[order] - part.mean(0)) / part.std(0) for part in (x, y))


def train(method, seed=0, *, tells_deviation=False, **options):
    """Share of the variance of patients that were not trained on which is explained (R2)."""
    torch.manual_seed(seed)
    x, y = data()
    body = nn.Sequential(nn.Linear(10, 32), nn.ReLU())
    head = nn.Linear(32, 2 if tells_deviation else 1)
    optimizer = torch.optim.Adam([*body.parameters(), *head.parameters()], lr=3e-3)

    budget = {"num_samples": TRAIN, "epochs": EPOCHS, "keep_ratio": 0.5, "seed": seed}
    agent = make_selector(method, **budget, **options)
    loader = selection_loader(TensorDataset(x[:TRAIN], y[:TRAIN]), agent, batch_size=16)
    agent.watch(head)
    for _ in agent.epochs():
        for inputs, target, index in loader:
            outputs = head(body(inputs))
            if tells_deviation:
                s = F.softplus(outputs[:, 1]) + 0.01
                losses = F.gaussian_nll_loss(outputs[:, 0], target, s**2, reduction="none")
                uncertainty = s.detach() / (s.detach() + 1)  # 1: the deviation of all targets
            else:
                samples = regression_losses(outputs, target)
                losses, uncertainty = samples.losses, samples.uncertainty  # zeros: not known
            agent.learn(losses, index, uncertainty=uncertainty).backward()
            optimizer.step()
            optimizer.zero_grad()
    return 1 - F.mse_loss(head(body(x[TRAIN:]))[:, 0], y[TRAIN:]).item() / y[TRAIN:].var().item()


def main():
    scores = {}
    for tells in (False, True):
        kind = "mean and deviation" if tells else "squared error"
        for name in ("random", "data-agent"):
            each = [train(name, seed, tells_deviation=tells) for seed in range(SEEDS)]
            scores[f"{kind}, {name}"] = sum(each) / SEEDS
            print(f"{kind}, {name}: R2 {scores[f'{kind}, {name}']:.3f}, mean of {SEEDS}")
    return scores


if __name__ == "__main__":
    main()
