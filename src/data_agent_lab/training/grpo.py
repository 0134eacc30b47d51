"""Group-relative policy optimisation: a step's rewards and loss. Pure functions.

Shao et al. 2024, https://arxiv.org/abs/2402.03300, with one step a generation, so that the ratio of
probabilities is one, and without a reference model; the loss is the mean over tokens (DAPO,
https://arxiv.org/abs/2503.14476, eq. 8).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from data_agent_lab.data.problems import PAD, Problem
from data_agent_lab.training.decoder import Completions

EPS = 1e-4


def rewards_of(problems: Sequence[Problem], completions: Completions) -> Tensor:
    """What completions earn, 1 where they are right: float64 `[B]`.

    Args:
        problems: one for each row of the completions.
        completions: what was generated.
    """
    size = completions.counts.shape[1]
    rows = completions.tokens[:, -size:].tolist()
    lengths = completions.counts.sum(1).tolist()
    return torch.tensor(
        [
            problem.reward(tuple(row[:length]))
            for row, length, problem in zip(rows, lengths, problems, strict=True)
        ],
        dtype=torch.float64,  # a package's score just below 1 stays below it
    )


def group_advantages(rewards: Tensor) -> Tensor:
    """(r - mean r) / (std r + 1e-4) within each group, `[k, G]`."""
    centred = rewards - rewards.mean(1, keepdim=True)
    return centred / (rewards.std(1, keepdim=True) + EPS)


def policy_loss(log_probs: Tensor, advantages: Tensor, counts: Tensor) -> Tensor:
    """Minus the mean over generated tokens of advantage times log-probability: a scalar.

    Args:
        log_probs: `[B, T]`.
        advantages: `[B]`.
        counts: bool `[B, T]`, the tokens that were generated.
    """
    return -(log_probs * advantages.unsqueeze(1) * counts).sum() / counts.sum()


class Rollout(NamedTuple):
    """Groups of completions that wait to be trained on.

    Args:
        completions: of `k G` rows, a prompt's beside each other.
        rewards: float32 `[k, G]` on the host.
    """

    completions: Completions
    rewards: Tensor

    def at(self, keeps: Tensor) -> Rollout:
        """The groups where bool `[k]` is True."""
        rows = keeps.repeat_interleave(self.rewards.shape[1]).to(self.completions.tokens.device)
        tokens, counts = self.completions
        return Rollout(Completions(tokens[rows], counts[rows]), self.rewards[keeps])

    def state(self) -> dict[str, Tensor]:
        """Its tensors by name."""
        return {**self.completions._asdict(), "rewards": self.rewards}

    @classmethod
    def of(cls, state: dict[str, Tensor], device: torch.device) -> Rollout:
        """What `state` returned, on a device."""
        told = Completions(state["tokens"].to(device), state["counts"].to(device))
        return cls(told, state["rewards"])


def joined(rollouts: Sequence[Rollout], most: int) -> Rollout:
    """The first `most` groups of several rollouts, prompts filled on their left, answers behind."""
    if len(rollouts) == 1:
        return rollouts[0]
    answers = max(r.completions.counts.shape[1] for r in rollouts)
    asked = max(r.completions.tokens.shape[1] - r.completions.counts.shape[1] for r in rollouts)
    tokens, counts = [], []
    for rollout in rollouts:
        told, is_told = rollout.completions
        size = is_told.shape[1]
        fill = (asked - told.shape[1] + size, answers - size)
        tokens.append(F.pad(told, fill, value=PAD))
        counts.append(F.pad(is_told, (0, answers - size)))
    rewards = torch.cat([rollout.rewards for rollout in rollouts])[:most]
    rows = rewards.numel()
    return Rollout(Completions(torch.cat(tokens)[:rows], torch.cat(counts)[:rows]), rewards)
