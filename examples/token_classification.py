"""Token classification: the loss of a sentence is the mean over its tokens that have a label.

    python examples/token_classification.py

Words have one of four tags, which depends on the word before too. Every third sentence was tagged
carelessly, forty were checked. Sentences end in padding, whose label -100 does not count. Replace
`data()` and the model.
"""

import torch
from torch import nn
from torch.utils.data import TensorDataset

from data_agent import make_selector, selection_loader
from data_agent.losses import token_losses

EPOCHS, TRAIN, CHECKED, WORDS, TAGS, SEEDS = 20, 600, 40, 20, 4, 3


def data():
    """Words `[N, 12]`, 0 for padding, their tags as they were given, and as they are."""
    draws = torch.Generator().manual_seed(0)
    words = torch.randint(1, WORDS, (1200, 12), generator=draws)
    table = torch.randint(0, TAGS, (3, WORDS), generator=draws)
    tags = table[torch.roll(words, 1, 1) % 3 * (torch.arange(12) > 0), words]
    is_padding = torch.arange(12) >= torch.randint(4, 13, (1200, 1), generator=draws)
    is_careless = (torch.arange(1200) % 3 == 0) & (torch.arange(1200) >= CHECKED)
    is_wrong = is_careless[:, None] & (torch.rand(1200, 12, generator=draws) < 0.7)
    other = (tags + torch.randint(1, TAGS, tags.shape, generator=draws)) % TAGS
    given = torch.where(is_wrong, other, tags)
    return words * ~is_padding, given.where(~is_padding, -100), tags.where(~is_padding, -100)


def train(method, seed=0, **options):
    """Share of right tags in sentences that were not trained on."""
    torch.manual_seed(seed)
    words, given, true = data()
    embedding, body, head = (
        nn.Embedding(WORDS, 32),
        nn.LSTM(32, 32, batch_first=True),
        nn.Linear(32, TAGS),
    )
    parts = nn.ModuleList([embedding, body, head])
    optimizer = torch.optim.Adam(parts.parameters(), lr=1e-2)

    budget = {"num_samples": TRAIN, "epochs": EPOCHS, "keep_ratio": 0.5, "seed": seed}
    agent = make_selector(method, **budget, **options)
    loader = selection_loader(TensorDataset(words[:TRAIN], given[:TRAIN]), agent, batch_size=32)
    for _ in agent.epochs():
        for tokens, tags, index in loader:
            hidden = body(embedding(tokens))[0]  # [B, 12, 32]
            samples = token_losses(head(hidden), tags)
            count = samples.mask.unsqueeze(2)  # the feature is the mean over tokens that count
            features = (hidden * count).sum(1) / count.sum(1)
            told = {"uncertainty": samples.uncertainty, "features": features}
            agent.learn(samples.losses, index, **told).backward()
            optimizer.step()
            optimizer.zero_grad()

    words, true = words[TRAIN:], true[TRAIN:]
    right = head(body(embedding(words))[0]).argmax(2) == true
    return right[true != -100].float().mean().item()


def main():
    scores = {}
    for name in ("random", "data-agent"):
        for trusted in (None, range(CHECKED)):
            words = name if trusted is None else f"{name}, {CHECKED} trusted sentences"
            each = [train(name, seed, trusted=trusted) for seed in range(SEEDS)]
            scores[words] = sum(each) / SEEDS
            print(f"{words}: {scores[words]:.3f} of the tags are right, mean of {SEEDS}")
    return scores


if __name__ == "__main__":
    main()
