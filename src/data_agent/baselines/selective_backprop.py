"""Selective backprop: train on a batch's high losses, drawn in proportion to their rank.

Jiang et al. 2019, "Accelerating Deep Learning by Focusing on the Biggest Losers",
https://arxiv.org/abs/1910.00762, section 3.2: a sample with loss L is chosen with probability
`CDF_R(L)^beta`, where CDF_R is the empirical distribution of the last R losses.

Departures. The paper's budget floats with these draws. Here each pool gives exactly its share: the
Gumbel trick draws that many samples without replacement, in proportion to the same probabilities.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from data_agent.errors import CheckpointError, InputError
from data_agent.runtime.distributed import gather_rows, rows_to_resume
from data_agent.runtime.random import Purpose, generator
from data_agent.selecting.batch_selector import BatchSelector
from data_agent.selecting.feedback import Feedback

HISTORY = 1024  # R, as in the paper


class SelectiveBackprop(BatchSelector):
    """Draws high losses of each pool.

    Args:
        beta: selectivity, 0 or more: 0 is a uniform draw, the paper's settings keep 20 to 50 %
            with 1 to 3.
        base: as `BatchSelector`.
    """

    name = "selective-backprop"

    def __init__(self, *, beta: float = 1.0, **base: Any) -> None:
        super().__init__(**base)
        if beta < 0:
            raise InputError(f"beta is {beta}; expected 0 or more (0 draws uniformly).")
        self.beta = beta
        self._history = torch.empty(0)

    def settings(self) -> dict[str, Any]:
        """Adds the selectivity."""
        return {**super().settings(), "beta": self.beta}

    def score(self, feedback: Feedback) -> Tensor:
        """Log-probabilities plus Gumbel noise: the highest are a draw in proportion to P."""
        losses = feedback.losses.float()
        past = self._history.to(losses.device) if len(self._history) else losses
        probability = selection_probability(losses, past, self.beta)
        running = self._open_epoch()
        draws = generator(self.seed, Purpose.BATCH, running.epoch, running.num_observed)
        uniform = torch.rand(len(losses), generator=draws).to(losses.device)
        return probability.log() - (-uniform.clamp_min(1e-30).log()).clamp_min(1e-30).log()

    def remember(self, pool: Feedback) -> None:
        """Append the pool's losses to the last R."""
        losses = pool.losses.float()  # stays on its device: nothing here waits for the host
        self._history = torch.cat([self._history.to(losses.device), losses])[-HISTORY:]

    def method_state(self) -> dict[str, Any]:
        """The last R losses of each rank, in rank order; a collective call."""
        history = self._history.cpu()
        (sizes,) = gather_rows(torch.tensor([len(history)]))
        (history,) = gather_rows(history)
        return {"history": history.clone(), "sizes": sizes.tolist()}

    def load_method_state(self, state: dict[str, Any]) -> None:
        """Take over the last R losses that this rank's part holds."""
        history, sizes = state["history"], state["sizes"]
        if history.dtype != torch.float32 or history.shape != (sum(sizes),):
            raise CheckpointError("'history' is not float32 of as many losses as its sizes say.")
        if max(sizes) > HISTORY:
            raise CheckpointError(f"'history' holds more than {HISTORY} losses of a rank.")
        if not history.isfinite().all():
            raise CheckpointError("'history' holds losses that are not finite.")
        self._history = rows_to_resume(history, sizes)[-HISTORY:].clone()


def selection_probability(losses: Tensor, past: Tensor, beta: float) -> Tensor:
    """P(L_i) = CDF_R(L_i)^beta, float `[P]` in (0, 1], of losses `[P]` and past ones `[R]`, R > 0.

    CDF_R(L) is the share of the past losses that are at most L; at least 1/(R + 1), so that no
    sample is out of reach.
    """
    at_most = torch.searchsorted(past.sort().values, losses.contiguous(), right=True)
    share = (at_most / len(past)).clamp_min(1 / (len(past) + 1))
    return share**beta
