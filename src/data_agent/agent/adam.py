"""Adam on one flat tensor: Kingma and Ba 2015, https://arxiv.org/abs/1412.6980, algorithm 1."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from data_agent.runtime.state import require_tensor

BETAS = (0.9, 0.999)
EPS = 1e-5


class Adam:
    """Moments of the gradient, and one step after another.

    Args:
        size: P, number of weights.
        weight_decay: added to the gradient as `weight_decay * weights`.
        dtype: of the moments.
        device: where they are.
    """

    def __init__(
        self, size: int, *, weight_decay: float, dtype: torch.dtype, device: torch.device
    ) -> None:
        self._weight_decay = weight_decay
        self._moments = torch.zeros(2, size, dtype=dtype, device=device)
        self._num_steps = 0

    def step(self, weights: Tensor, gradient: Tensor, learning_rate: float) -> None:
        """Change `weights` `[P]` in place; `gradient` `[P]` is used up."""
        self._num_steps += 1
        first, second = self._moments.unbind(0)
        gradient.add_(weights, alpha=self._weight_decay)
        first.lerp_(gradient, 1 - BETAS[0])
        second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
        first_bias, second_bias = [1 - beta**self._num_steps for beta in BETAS]
        scale = second.sqrt().div_(second_bias**0.5).add_(EPS)
        weights.addcdiv_(first, scale, value=-learning_rate / first_bias)

    def to(self, device: torch.device) -> None:
        """Move to `device`."""
        self._moments = self._moments.to(device)

    def state_dict(self) -> dict[str, Any]:
        """Both moments `[2, P]`, and the number of steps."""
        return {"moments": self._moments.cpu().clone(), "num_steps": self._num_steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        own = self._moments
        moments = require_tensor(state, "moments", shape=tuple(own.shape), dtype=own.dtype)
        self._moments, self._num_steps = moments.to(own.device), int(state["num_steps"])
