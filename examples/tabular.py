"""Tables: a few rows that somebody checked, where three labels in ten are wrong.

    python examples/tabular.py

Benign or malignant, from thirty measurements of cells (scikit-learn brings 569). Replace `data()`;
columns of words become numbers or embeddings first, and the last layer is watched as anywhere.
"""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_breast_cancer
from torch import nn
from torch.utils.data import TensorDataset

from data_agent import make_selector, selection_loader

EPOCHS, TRAIN, CHECKED, SEEDS = 30, 400, 40, 3


def data():
    """Standardised measurements `[N, 30]`, labels `[N]` as they were given, and as they are."""
    x, y = (torch.from_numpy(part) for part in load_breast_cancer(return_X_y=True))
    draws = torch.Generator().manual_seed(0)
    order = torch.randperm(len(y), generator=draws)
    x, y = ((x - x.mean(0)) / x.std(0)).float()[order], y.long()[order]
    is_wrong = torch.rand(len(y), generator=draws) < 0.3
    is_wrong[:CHECKED] = False
    return x, torch.where(is_wrong, 1 - y, y), y


def train(method, seed=0, **options):
    """Accuracy on rows that were not trained on."""
    torch.manual_seed(seed)
    x, given, true = data()
    model = nn.Sequential(nn.Linear(30, 64), nn.ReLU(), nn.Linear(64, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    budget = {"num_samples": TRAIN, "epochs": EPOCHS, "keep_ratio": 0.5, "seed": seed}
    agent = make_selector(method, **budget, **options)
    loader = selection_loader(TensorDataset(x[:TRAIN], given[:TRAIN]), agent, batch_size=16)
    agent.watch(model[-1])
    for _ in agent.epochs():
        for rows, labels, index in loader:
            losses = F.cross_entropy(model(rows), labels, reduction="none")
            agent.learn(losses, index, labels=labels).backward()
            optimizer.step()
            optimizer.zero_grad()
    return (model(x[TRAIN:]).argmax(1) == true[TRAIN:]).float().mean().item()


def main():
    scores = {}
    for name, options in (
        ("random", {}),
        ("data-agent", {}),
        ("random", {"trusted": range(CHECKED)}),  # in each epoch, as for the agent
        ("data-agent", {"trusted": range(CHECKED)}),
    ):
        words = f"{name}, {CHECKED} trusted rows" if options else name
        scores[words] = sum(train(name, seed, **options) for seed in range(SEEDS)) / SEEDS
        print(f"{words}: accuracy {scores[words]:.3f}, mean of {SEEDS}")
    return scores


if __name__ == "__main__":
    main()
