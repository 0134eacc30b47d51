"""What is remembered of each sample, and the score by which it is ranked. On the host."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from data_agent.runtime.random import Purpose, generator
from data_agent.runtime.state import require_tensor

BLOCK = 65_536  # samples that share a seed, so that draws depend on neither rank nor memory
EXACT_DRAWS_UP_TO = 1_000_000  # above it a logit-normal stands for the Beta distribution
_HALF_VALUES = 32_768  # the non-negative float16 values, by their bit pattern


class SampleTable(Protocol):
    """The contract of both tables."""

    def rows(self, alpha: Tensor, beta: Tensor, action: Tensor) -> Tensor:
        """What to keep of a batch: float32 `[B, width]`."""
        ...

    def merge(self, index: Tensor, values: Tensor) -> None:
        """Take in rows of distinct samples; all others become staler by one epoch."""
        ...

    def scores(self, epoch: int) -> Tensor:
        """float32 `[N]`: the action of each sample in `epoch`, or any increasing function of it."""
        ...

    def expected_actions(self) -> Tensor:
        """float32 `[N]`: E[a_i] of each sample."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """The table's tensors."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        ...


class ParameterTable:
    """The policy's (alpha, beta) at each sample's last visit, four bytes a sample.

    Every epoch draws a fresh action for **every** sample, so none is stuck with an unlucky one,
    and samples that were not visited drift back to the prior Beta(1, 1), so none is starved.

    Args:
        num_samples: N.
        seed: of the draws.
        drift: share in [0, 1] of the way back to the prior in each epoch without a visit.
    """

    def __init__(self, num_samples: int, *, seed: int, drift: float) -> None:
        self._num_samples = num_samples
        self._seed = seed
        self._drift = drift
        self._visited: Tensor | None = None  # None: none was, so all are at the prior

    @property
    def _parameters(self) -> Tensor:
        """float16 `[N, 2]`."""
        if self._visited is None:
            return torch.ones(1, 2, dtype=torch.float16).expand(self._num_samples, 2)
        return self._visited

    def rows(self, alpha: Tensor, beta: Tensor, action: Tensor) -> Tensor:
        """(alpha, beta), float32 `[B, 2]`."""
        del action
        return torch.stack([alpha, beta], dim=1).float()

    def merge(self, index: Tensor, values: Tensor) -> None:
        """Drift, then write."""
        if self._visited is None:
            self._visited = torch.from_numpy(np.ones((self._num_samples, 2), dtype=np.float16))
        if self._drift:
            _drift_to_prior(self._visited, self._drift)
        both = self._visited.view(torch.int32).squeeze(1).numpy()  # written as one value
        for places, rows in zip(index.split(BLOCK), values.split(BLOCK), strict=True):
            both[places.numpy()] = _as_stored(rows).view(torch.int32).squeeze(1).numpy()

    def scores(self, epoch: int) -> Tensor:
        """A fresh draw of every sample's action; above 10^6 samples of its logit."""
        parameters = self._parameters
        draw = _beta_draws if len(parameters) <= EXACT_DRAWS_UP_TO else _logit_normal_draws
        scores = torch.from_numpy(np.empty(len(parameters), dtype=np.float32))
        blocks = zip(parameters.split(BLOCK), scores.split(BLOCK), strict=True)
        for number, (rows, out) in enumerate(blocks):
            draws = generator(self._seed, Purpose.REDRAW, epoch, number)
            out.copy_(draw(rows[:, 0], rows[:, 1], draws))
        return scores

    def expected_actions(self) -> Tensor:
        """Alpha / (alpha + beta), float32 `[N]`."""
        return _beta_mean(self._parameters.float())

    def state_dict(self) -> dict[str, Any]:
        """(alpha, beta), float16 `[N, 2]`, or None before the first visit."""
        return {"parameters": None if self._visited is None else self._visited.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self._visited = None
        if state["parameters"] is not None:
            shape = (self._num_samples, 2)
            self._visited = require_tensor(state, "parameters", shape=shape, dtype=torch.float16)


class ActionTable:
    """The action sampled at each sample's last visit, four bytes a sample: the paper's ranking.

    A sample that an unlucky draw left out keeps that draw until it is visited again, if ever.

    Args:
        num_samples: N.
    """

    def __init__(self, num_samples: int) -> None:
        self._num_samples = num_samples
        self._visited: Tensor | None = None  # None: none was

    @property
    def _actions(self) -> Tensor:
        if self._visited is None:
            return torch.tensor(0.5).expand(self._num_samples)
        return self._visited

    def rows(self, alpha: Tensor, beta: Tensor, action: Tensor) -> Tensor:
        """The action, float32 `[B, 1]`."""
        del alpha, beta
        return action.unsqueeze(1).float()

    def merge(self, index: Tensor, values: Tensor) -> None:
        """Write."""
        self._visited = self._actions.contiguous()
        self._visited[index] = values[:, 0]

    def scores(self, epoch: int) -> Tensor:
        """The actions as they were sampled."""
        del epoch
        return self._actions

    def expected_actions(self) -> Tensor:
        """The actions themselves."""
        return self._actions

    def state_dict(self) -> dict[str, Any]:
        """The actions, float32 `[N]`, or None before the first visit."""
        return {"actions": None if self._visited is None else self._visited.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self._visited = None
        if state["actions"] is not None:
            shape = (self._num_samples,)
            self._visited = require_tensor(state, "actions", shape=shape, dtype=torch.float32)


def _drift_to_prior(parameters: Tensor, share: float) -> None:
    """`p += share (1 - p)` in place, looked up: float16 has so few values that it is faster."""
    values = torch.arange(_HALF_VALUES, dtype=torch.int16).view(torch.float16)
    drifted = (values + share * (1 - values)).view(torch.int16).numpy()
    for block in parameters.view(torch.int16).split(BLOCK):
        block.copy_(torch.from_numpy(drifted.take(block.numpy())))


def _as_stored(parameters: Tensor) -> Tensor:
    return parameters.clamp(max=torch.finfo(torch.float16).max).to(torch.float16)


def _beta_mean(parameters: Tensor) -> Tensor:
    return parameters[:, 0] / parameters.sum(1)


def _beta_draws(alpha: Tensor, beta: Tensor, draws: torch.Generator) -> Tensor:
    """Exact draws: Ga(alpha) / (Ga(alpha) + Ga(beta))."""
    first = torch._standard_gamma(alpha.float(), generator=draws)
    second = torch._standard_gamma(beta.float(), generator=draws)
    return first / (first + second)


def _logit_normal_draws(alpha: Tensor, beta: Tensor, draws: torch.Generator) -> Tensor:
    """Draws of logit(a) from the normal distribution with the Beta distribution's moments.

    E[logit a] = psi(alpha) - psi(beta), Var[logit a] = psi_1(alpha) + psi_1(beta); both functions
    are looked up by the float16 bit pattern.
    """
    digamma, trigamma = _polygamma_tables()
    at_alpha, at_beta = alpha.view(torch.int16).int(), beta.view(torch.int16).int()
    mean = digamma.index_select(0, at_alpha) - digamma.index_select(0, at_beta)
    variance = trigamma.index_select(0, at_alpha) + trigamma.index_select(0, at_beta)
    return (
        torch.randn(len(alpha), generator=draws, dtype=torch.float32)
        .mul_(variance.sqrt_())
        .add_(mean)
    )


def _polygamma_tables() -> tuple[Tensor, Tensor]:
    """Psi and psi_1 at every non-negative float16 value, float32 `[32768]` each."""
    if not _TABLES:
        values = torch.arange(_HALF_VALUES, dtype=torch.int16).view(torch.float16).double()
        values = values.nan_to_num(nan=1.0, posinf=1.0).clamp_min(1.0)
        _TABLES.append(torch.digamma(values).float())
        _TABLES.append(torch.polygamma(1, values).float())
    return _TABLES[0], _TABLES[1]


_TABLES: list[Tensor] = []
