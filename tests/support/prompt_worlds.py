"""Worlds of prompts whose chances of success are known."""

from __future__ import annotations

import torch


class World:
    """N prompts of difficulty d, won with chance sigmoid(4 (skill - d)); features that show d.

    Training on informative groups raises the skill: the model learns where there is something to
    learn.

    Args:
        size: N.
        difficulty: (low, high), of which difficulties are drawn evenly.
        noise: standard deviation of what features show of d.
        learns: what one informative group adds to the skill.
        seed: of the world.
    """

    def __init__(self, size, *, difficulty=(-1.0, 3.0), noise=0.3, learns=0.0, seed=0):
        self.draws = torch.Generator().manual_seed(1000 + seed)
        low, high = difficulty
        self.difficulty = low + (high - low) * torch.rand(size, generator=self.draws)
        shown = self.difficulty + noise * torch.randn(size, generator=self.draws)
        others = torch.randn(size, 5, generator=self.draws)
        self.features = torch.cat([shown.unsqueeze(1), others], 1)
        self.skill, self.learns = 0.0, learns

    def chance(self):
        """p of every prompt, `[N]`."""
        return torch.sigmoid(4 * (self.skill - self.difficulty))

    def roll_out(self, index, generations):
        """Rewards of 0 and 1, `[k, G]`; afterwards the model has learned from them."""
        chance = self.chance()[index].unsqueeze(1).expand(-1, generations)
        rewards = torch.bernoulli(chance, generator=self.draws)
        is_mixed = (rewards.amax(1) > rewards.amin(1)).sum()
        self.skill += self.learns * float(is_mixed)
        return rewards


def train(selector, world, batches):
    """Let a selector choose so many batches; the share of informative groups, and the visits."""
    informative, visits = [], torch.zeros(len(world.difficulty), dtype=torch.int64)
    for _ in range(batches):
        index = selector.candidates()
        chosen = selector.choose(index, world.features[index])
        visits[chosen] += 1
        groups = selector.learn(chosen, world.roll_out(chosen, selector.generations))
        informative.append(float(groups.is_informative.float().mean()))
    return torch.tensor(informative), visits
