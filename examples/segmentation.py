"""Segmentation: the loss of an image is the mean over those of its pixels that count.

    python examples/segmentation.py

Digits lie on larger canvases (scikit-learn brings them); which one a pixel belongs to is learned.
Pixels at the rim of a stroke have the label 255, which does not count. Replace `data()` and the
model.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset

from data_agent import make_selector, selection_loader
from data_agent.losses import pixel_losses

EPOCHS, TRAIN, CLASSES, IGNORED, SEEDS = 10, 400, 4, 255, 3


def data():
    """Images `[N, 1, 16, 16]`, and the classes of their pixels `[N, 16, 16]`: 0 for background."""
    pixels, digits = load_digits(n_class=CLASSES - 1, return_X_y=True)
    draws = torch.Generator().manual_seed(0)
    images = torch.zeros(len(digits), 1, 16, 16)
    for image, digit in zip(images, torch.from_numpy(pixels).float().view(-1, 8, 8), strict=True):
        top, left = torch.randint(0, 9, (2,), generator=draws)
        image[0, top : top + 8, left : left + 8] = digit / 16
    classes = (images[:, 0] > 0.5) * (1 + torch.from_numpy(digits).long())[:, None, None]
    classes[(images[:, 0] > 0) & (images[:, 0] <= 0.5)] = IGNORED
    order = torch.randperm(len(digits), generator=draws)
    return images[order], classes[order]


def train(method, seed=0, **options):
    """Mean intersection over union on images that were not trained on."""
    torch.manual_seed(seed)
    x, y = data()
    body, head = nn.Sequential(), nn.Conv2d(16, CLASSES, 1)
    for channels, dilation in ((1, 1), (16, 2), (16, 4)):
        body.append(nn.Conv2d(channels, 16, 3, padding=dilation, dilation=dilation))
        body.extend([nn.BatchNorm2d(16), nn.ReLU()])
    optimizer = torch.optim.Adam([*body.parameters(), *head.parameters()], lr=1e-2)

    budget = {"num_samples": TRAIN, "epochs": EPOCHS, "keep_ratio": 0.5, "seed": seed}
    agent = make_selector(method, **budget, **options)
    loader = selection_loader(TensorDataset(x[:TRAIN], y[:TRAIN]), agent, batch_size=8)
    for _ in agent.epochs():
        for images, classes, index in loader:
            maps = body(images)  # [B, 16, 16, 16]: the mean over their pixels is the feature
            samples = pixel_losses(head(maps), classes, ignore_index=IGNORED)
            told = {"uncertainty": samples.uncertainty, "features": maps.mean((2, 3))}
            agent.learn(samples.losses, index, **told).backward()
            optimizer.step()
            optimizer.zero_grad()

    found, true = head(body.eval()(x[TRAIN:])).argmax(1), y[TRAIN:]
    found[true == IGNORED] = IGNORED
    pairs = [(found == c, true == c) for c in range(CLASSES)]
    return torch.stack([(f & t).sum() / (f | t).sum() for f, t in pairs]).mean().item()


def main():
    scores = {}
    for name in ("random", "data-agent"):
        scores[name] = sum(train(name, seed) for seed in range(SEEDS)) / SEEDS
        print(f"{name}: IoU {scores[name]:.3f} at half of the visits, mean of {SEEDS}")
    return scores


if __name__ == "__main__":
    main()
