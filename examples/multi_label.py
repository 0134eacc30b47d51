"""Several labels: the loss of a sample is the mean over its yes-or-no questions.

    python examples/multi_label.py

Two digits stand side by side (scikit-learn brings them); which of ten are there is learned. Replace
`data()` and `model`.
"""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset

from data_agent import make_selector, selection_loader
from data_agent.losses import multi_label_losses

EPOCHS, TRAIN, SEEDS = 24, 1200, 3


def data():
    """Images `[N, 128]`, and for each of ten digits whether it is there, `[N, 10]` of 0 and 1."""
    pixels, digits = (torch.from_numpy(part) for part in load_digits(return_X_y=True))
    draws = torch.Generator().manual_seed(0)
    left, right = (torch.randperm(len(digits), generator=draws) for _ in range(2))
    images = torch.cat([pixels[left], pixels[right]], 1).float() / 16
    there = F.one_hot(digits[left].long(), 10) | F.one_hot(digits[right].long(), 10)
    return images, there.float()


def train(method, seed=0, **options):
    """Share of test images of which all ten answers are right."""
    torch.manual_seed(seed)
    x, y = data()
    model = nn.Sequential(nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)

    budget = {"num_samples": TRAIN, "epochs": EPOCHS, "keep_ratio": 0.5, "seed": seed}
    agent = make_selector(method, **budget, **options)
    loader = selection_loader(TensorDataset(x[:TRAIN], y[:TRAIN]), agent, batch_size=32)
    agent.watch(model[-1])  # its input is the feature; its outputs are no distribution over classes
    for _ in agent.epochs():
        for images, there, index in loader:
            samples = multi_label_losses(model(images), there)
            agent.learn(samples.losses, index, uncertainty=samples.uncertainty).backward()
            optimizer.step()
            optimizer.zero_grad()
    return ((model(x[TRAIN:]) > 0) == y[TRAIN:]).all(1).float().mean().item()


def main():
    scores = {}
    for name in ("random", "data-agent"):
        scores[name] = sum(train(name, seed) for seed in range(SEEDS)) / SEEDS
        print(f"{name}: {scores[name]:.3f} all right at half of the visits, mean of {SEEDS}")
    return scores


if __name__ == "__main__":
    main()
