"""Actor and critic: two small MLPs side by side, in one flat tensor of weights."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_agent.runtime.random import Purpose, generator

ACTOR_HEAD_GAIN = 0.01  # so that all samples start with almost the same policy
Layer = tuple[Tensor, Tensor]


class ActorCritic:
    """State `[B, D]` -> outputs `[2, B, 2]`: the actor's two, then the critic's value and a zero.

    Actor and critic have two hidden ReLU layers each and share nothing; stacked, they take as many
    operations as one. The critic's second output has no weights but zeros, and gets no gradient.

    Args:
        width: D.
        hidden: width of the hidden layers.
        seed: of the orthogonal weights.
        dtype: of the weights.
        device: where they are.
    """

    def __init__(
        self, width: int, hidden: int, *, seed: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self._sizes = ((width, hidden), (hidden, hidden), (hidden, 2))
        total = sum(2 * (inputs + 1) * outputs for inputs, outputs in self._sizes)
        self.load(torch.zeros(total, dtype=dtype))
        for network, (outputs, gain) in enumerate(((2, ACTOR_HEAD_GAIN), (1, 1.0))):
            body = _mlp(width, hidden, outputs, seed=seed, network=network, gain=gain, dtype=dtype)
            initial = [p.detach().T for name, p in body.named_parameters() if "weight" in name]
            for (weight, _), values in zip(self.layers, initial, strict=True):
                weight[network, :, : values.shape[1]] = values
        self.to(device)

    def forward(self, state: Tensor) -> list[Tensor]:
        """What each layer takes, `[2, B, width]`, and the outputs behind them."""
        values = [state.expand(2, -1, -1)]
        for weight, bias in self.layers[:-1]:
            values.append(torch.baddbmm(bias, values[-1], weight).relu_())
        weight, bias = self.layers[-1]
        return [*values, torch.baddbmm(bias, values[-1], weight)]

    def gradient(self, values: list[Tensor], outputs: Tensor) -> Tensor:
        """The weights' gradient `[P]`, by the chain rule; the next call overwrites it.

        Args:
            values: what `forward` returned.
            outputs: `[2, B, 2]`, the gradient of the outputs.
        """
        layers = list(zip(self.layers, self._gradient_layers, values, strict=False))
        for number, ((weight, _), (to_weight, to_bias), taken) in reversed(list(enumerate(layers))):
            torch.bmm(taken.mT, outputs, out=to_weight)
            torch.sum(outputs, 1, keepdim=True, out=to_bias)
            if number:  # a unit passes on only where it is above zero
                outputs = torch.bmm(outputs, weight.mT).mul_(taken > 0)
        return self._gradient

    def concentration(self, state: Tensor) -> Tensor:
        """(alpha, beta) = 1 + softplus(actor(state)), `[B, 2]`: above one, a unimodal Beta."""
        for weight, bias in self.layers[:-1]:
            state = torch.addmm(bias[0], state, weight[0]).relu_()
        weight, bias = self.layers[-1]
        return concentration(torch.addmm(bias[0], state, weight[0]))

    def to(self, device: torch.device) -> None:
        """Move to `device`."""
        self.load(self.weights.to(device))

    def load(self, weights: Tensor) -> None:
        """Take over weights `[P]`."""
        self.weights, self._gradient = weights, torch.zeros_like(weights)
        self.layers, self._gradient_layers = map(self._views_of, (weights, self._gradient))

    def __getstate__(self) -> dict[str, Any]:
        """Without the views: a copy would not know what they are views of."""
        return {"_sizes": self._sizes, "weights": self.weights}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Make the views again."""
        self._sizes = state["_sizes"]
        self.load(state["weights"])

    def _views_of(self, flat: Tensor) -> list[Layer]:
        """Of each layer the weights `[2, in, out]` and the biases `[2, 1, out]`."""
        shapes = [(2, rows, out) for size, out in self._sizes for rows in (size, 1)]
        parts = flat.split([two * rows * out for two, rows, out in shapes])
        views = [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
        return list(zip(views[::2], views[1::2], strict=True))


def concentration(outputs: Tensor) -> Tensor:
    """(alpha, beta) = 1 + softplus(outputs), of any shape."""
    return F.softplus(outputs).add_(1)


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
