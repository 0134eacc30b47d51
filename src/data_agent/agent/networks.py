"""Actor and critic: two small MLPs, initialised from our own generator."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_agent.runtime.random import Purpose, generator

ACTOR_HEAD_GAIN = 0.01  # so that all samples start with almost the same policy


class Actor(nn.Module):
    """State `[B, D]` -> (alpha, beta), each `[B]` and above one: a unimodal Beta policy."""

    def __init__(self, width: int, hidden: int, *, seed: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.body = _mlp(width, hidden, 2, seed=seed, network=0, gain=ACTOR_HEAD_GAIN, dtype=dtype)

    def forward(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """alpha, beta = 1 + softplus(body(state))."""
        alpha, beta = (1 + F.softplus(self.body(state))).unbind(1)
        return alpha, beta


class Critic(nn.Module):
    """State `[B, D]` -> its value `[B]`."""

    def __init__(self, width: int, hidden: int, *, seed: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.body = _mlp(width, hidden, 1, seed=seed, network=1, gain=1.0, dtype=dtype)

    def forward(self, state: Tensor) -> Tensor:
        """V(state)."""
        return self.body(state).squeeze(1)


def _mlp(
    width: int, hidden: int, out: int, *, seed: int, network: int, gain: float, dtype: torch.dtype
) -> nn.Sequential:
    """Two hidden ReLU layers; orthogonal weights, zero biases, `gain` for the last layer.

    Built on the meta device: nn.Linear would draw its default weights from the global generator.
    """
    layers = [
        nn.Linear(width, hidden, device="meta"),
        nn.Linear(hidden, hidden, device="meta"),
        nn.Linear(hidden, out, device="meta"),
    ]
    body = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])
    body.to_empty(device="cpu").to(dtype)
    draws = generator(seed, Purpose.NETWORK, network)
    with torch.no_grad():
        for layer, layer_gain in zip(layers, (2**0.5, 2**0.5, gain), strict=True):
            nn.init.orthogonal_(layer.weight, gain=layer_gain, generator=draws)
            nn.init.zeros_(layer.bias)
    return body
