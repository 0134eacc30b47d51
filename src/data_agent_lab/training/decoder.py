"""A small decoder of tokens, and how it answers: trained from scratch, on any device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from data_agent_lab.data.problems import END, LONGEST_PROMPT, MAX_NEW_TOKENS, PAD, VOCABULARY

HEADS = 4
Cache = list[Tensor]
"""Of each block the keys and values so far; empty before the first token."""


class Completions(NamedTuple):
    """What was generated.

    Args:
        tokens: int64 `[B, P + T]`, prompts filled on their left, then what came; behind its end
            there is padding.
        counts: bool `[B, T]`, tokens that were generated, the end among them.
    """

    tokens: Tensor
    counts: Tensor


class Decoder(nn.Module):
    """Tokens `[B, T]` -> last hidden states `[B, T, H]`; `head` makes logits of them.

    Args:
        width: H.
        layers: number of blocks.
    """

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, width)
        self.places = nn.Embedding(LONGEST_PROMPT + MAX_NEW_TOKENS, width)
        self.blocks = nn.ModuleList(_Block(width) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, VOCABULARY, bias=False)

    def forward(self, tokens: Tensor, cache: Cache | None = None) -> Tensor:
        """Hidden states; padding is not looked at.

        With a cache only those of tokens that it does not know yet, which it takes in.
        """
        is_there = tokens != PAD
        place = (is_there.cumsum(1) - 1).clamp_min(0)
        size = tokens.shape[1]
        causal = torch.ones(size, size, dtype=torch.bool, device=tokens.device).tril()
        mask = causal & is_there.unsqueeze(1)
        mask = mask | torch.eye(size, dtype=torch.bool, device=tokens.device)  # of padding itself
        known = cache[0].shape[3] if cache else 0
        hidden = self.tokens(tokens[:, known:]) + self.places(place[:, known:])
        for number, block in enumerate(self.blocks):
            before = cache[number] if cache and known else None
            hidden, seen = block(hidden, mask[:, None, known:], before)
            if cache is not None:
                cache[number : number + 1] = [seen]
        return self.norm(hidden)


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.inputs, self.outputs = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, hidden: Tensor, mask: Tensor, before: Tensor | None) -> tuple[Tensor, Tensor]:
        """Hidden states, and keys and values `[2, B, heads, T, H / heads]` up to here."""
        parts = self.inputs(self.norms[0](hidden)).chunk(3, -1)
        query, key, value = (p.unflatten(-1, (HEADS, -1)).transpose(1, 2) for p in parts)
        seen = torch.stack([key, value])
        seen = seen if before is None else torch.cat([before, seen], 3)
        told = F.scaled_dot_product_attention(query, seen[0], seen[1], attn_mask=mask)
        hidden = hidden + self.outputs(told.transpose(1, 2).flatten(2))
        return hidden + self.down(F.gelu(self.up(self.norms[1](hidden)))), seen


def left_filled(prompts: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """int64 `[B, P]`: prompts that end at one place."""
    turned = [torch.tensor(prompt).flip(0) for prompt in prompts]
    return pad_sequence(turned, batch_first=True, padding_value=PAD).flip(1).to(device)


@torch.no_grad()
def complete(
    model: Decoder, prompts: Sequence[Sequence[int]], *, device: torch.device, greedy: bool = False
) -> Completions:
    """Answer prompts, at temperature one from torch's global generator, or greedily."""
    tokens = left_filled(prompts, device)
    is_open = torch.ones(len(tokens), dtype=torch.bool, device=device)
    counts: list[Tensor] = []
    cache: Cache = []
    for _ in range(MAX_NEW_TOKENS):
        logits = model.head(model(tokens, cache)[:, -1])
        logits[:, PAD] = -torch.inf
        if greedy:
            following = logits.argmax(1)
        else:
            following = torch.multinomial(logits.softmax(1), 1).squeeze(1)
        following = following.where(is_open, torch.full_like(following, PAD))
        tokens = torch.cat([tokens, following.unsqueeze(1)], 1)
        counts.append(is_open)
        is_open = is_open & (following != END)
        if not is_open.any():
            break
    return Completions(tokens, torch.stack(counts, 1))


def log_probs(model: Decoder, completions: Completions) -> Tensor:
    """Of the generated tokens, float `[B, T]`; zero where there is none."""
    tokens, counts = completions
    hidden = model(tokens[:, :-1])[:, -counts.shape[1] :]
    following = tokens[:, -counts.shape[1] :]
    found = model.head(hidden).log_softmax(-1).gather(2, following.unsqueeze(2)).squeeze(2)
    return found.masked_fill(~counts, 0.0)


@torch.no_grad()
def features_of(
    model: Decoder, prompts: Sequence[Sequence[int]], *, device: torch.device
) -> Tensor:
    """Last hidden states of prompts, `[M, 2 H]` on the host: of the last token, and the mean."""
    tokens = left_filled(prompts, device)
    hidden = model(tokens).float()
    is_there = (tokens != PAD).unsqueeze(2)
    mean = (hidden * is_there).sum(1) / is_there.sum(1)
    return torch.cat([hidden[:, -1], mean], 1).cpu()
