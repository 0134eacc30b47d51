"""Digits of which four in ten training labels are wrong, and a hundred rows whose labels are right.

    python examples/trusted_images.py

A plain loop (scikit-learn brings the images). Replace `data()` by your own training data, trusted
rows and tests: the trusted rows look like the tests, and none of them is among these.
"""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset

from data_agent import DataAgent, selection_loader
from data_agent.trusted import append_trusted

EPOCHS, TRUSTED, TESTS = 24, slice(1200, 1300), slice(1300, None)


def data():
    """Training data with wrong labels, which of them are wrong, trusted rows, and tests."""
    pixels, classes = load_digits(return_X_y=True)
    draws = torch.Generator().manual_seed(0)
    order = torch.randperm(len(classes), generator=draws)
    x = torch.from_numpy(pixels).float()[order].view(-1, 1, 8, 8) / 16
    y = torch.from_numpy(classes).long()[order]
    is_wrong = torch.rand(1200, generator=draws) < 0.4
    given = (y[:1200] + is_wrong * torch.randint(1, 10, (1200,), generator=draws)) % 10
    trusted, tests = (TensorDataset(x[part], y[part]) for part in (TRUSTED, TESTS))
    return TensorDataset(x[:1200], given), is_wrong, trusted, tests


def main():
    torch.manual_seed(0)
    train_set, is_wrong, trusted_set, test_set = data()
    train_set, rows = append_trusted(train_set, trusted_set, evaluation=test_set)
    layers = nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(576, 10)
    model = nn.Sequential(*layers)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    agent = DataAgent(num_samples=len(train_set), epochs=EPOCHS, keep_ratio=0.5, trusted=rows)
    loader = selection_loader(train_set, agent, batch_size=32)
    agent.watch(model[-1])
    for _ in agent.epochs():
        for images, labels, index in loader:
            losses = F.cross_entropy(model(images), labels, reduction="none")
            agent.learn(losses, index, labels=labels).backward()
            optimizer.step()
            optimizer.zero_grad()

    print(agent.summary())
    chosen = agent.select(EPOCHS - 1).index
    wrong = is_wrong[chosen[chosen < len(is_wrong)]].float().mean().item()
    images, labels = test_set.tensors
    return wrong, (model.eval()(images).argmax(1) == labels).float().mean().item()


if __name__ == "__main__":
    print("wrong labels in the last epoch {:.3f}, accuracy {:.3f}".format(*main()))
