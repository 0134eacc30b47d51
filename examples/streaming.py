"""Choose inside each batch of a stream: score a pool forward, train on a quarter of it."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import IterableDataset

from data_agent import Feedback, make_selector, selection_loader

STEPS, POOL = 200, 64


class Stream(IterableDataset):
    """Endless, never the same sample twice; a fifth of the samples are near the border."""

    def __iter__(self):
        draws = torch.Generator().manual_seed(0)
        while True:
            x = torch.randn(16, generator=draws)
            if torch.rand(1, generator=draws) < 0.8:
                x[0] += 4 * x[0].sign()
            yield x, (x[0] > 0).long()


def main():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(16, 32), nn.ReLU())
    head = nn.Linear(32, 2)
    optimizer = torch.optim.SGD([*body.parameters(), *head.parameters()], lr=0.1)
    agent = make_selector(
        "data-agent-in-batch", num_samples=STEPS * POOL, epochs=1, keep_ratio=0.25
    )
    loader = selection_loader(Stream(), agent, batch_size=POOL)

    for _ in agent.epochs():
        for inputs, labels, index in loader:
            with torch.no_grad():
                features = body(inputs)
                logits = head(features)
                losses = F.cross_entropy(logits, labels, reduction="none")
            keep = agent.select_batch(Feedback(index, losses, logits, features, labels))

            features = body(inputs[keep])
            logits = head(features)
            losses = F.cross_entropy(logits, labels[keep], reduction="none")
            loss = agent.learn(
                losses, index[keep], labels=labels[keep], logits=logits, features=features
            )
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    print(agent.summary())
    return agent


if __name__ == "__main__":
    main()
