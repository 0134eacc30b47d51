"""A Trainer's run written down, and given orders to run without us."""

from typing import Any

import torch


class Recording:
    """A Trainer that keeps what it trained on: `(epoch, indices, first tokens)` for each batch."""

    selector: Any

    def training_step(self, model, inputs, *args, **kwargs):
        index = inputs["sample_index"].tolist()
        batch = (self.selector.epoch, index, _first_tokens(inputs, index))
        self.batches = [*getattr(self, "batches", []), batch]
        trainer: Any = super()
        return trainer.training_step(model, inputs, *args, **kwargs)

    @property
    def order(self):
        epochs = {}
        for epoch, index, _ in self.batches:
            epochs.setdefault(epoch, []).extend(index)
        return [epochs[epoch] for epoch in sorted(epochs)]


class Replay(torch.utils.data.Sampler):
    """Given orders, one an epoch; the framework counts the epochs."""

    def __init__(self, orders):
        self.orders, self.epoch = orders, 0

    def __len__(self):
        return len(self.orders[0])

    def __iter__(self):
        return iter(self.orders[self.epoch])

    def set_epoch(self, epoch):
        self.epoch = epoch


def order_of_ranks(ours):
    """The order of a run on several ranks, from which Accelerate deals the same batches."""
    shares: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(shares, [(e, index) for e, index, _ in ours.batches])
    epochs = {}
    for dealt in zip(*shares, strict=True):
        for epoch, index in dealt:
            epochs.setdefault(epoch, []).extend(index)
    return [epochs[epoch] for epoch in sorted(epochs)]


def flat_weights(model):
    """All parameters of a model in one row."""
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def _first_tokens(inputs, index):
    """Of each sample, also where a collator put all of them into one row."""
    if "input_ids" not in inputs:
        return index
    tokens, lengths = inputs["input_ids"], inputs.get("sample_lengths")
    first = tokens[:, 0] if lengths is None else tokens[0, lengths.cumsum() - lengths]
    return first.tolist()
