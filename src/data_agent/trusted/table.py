"""What is remembered of each sample's likeness to trusted rows, and the ranking drawn from it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from data_agent.errors import CheckpointError
from data_agent.runtime.random import Purpose, generator
from data_agent.runtime.state import require_tensor

UNSEEN = torch.finfo(torch.float16).max  # in place of an average
BLOCK = 65_536  # samples that share a seed, so that draws depend on neither rank nor memory
_SURELY = 5.0  # exp(-exp(5)) is none
_CLOSE = 1e-8
_GOLDEN = (math.sqrt(5) - 1) / 2  # its multiples fill [0, 1) most evenly
_LEAST = 2.0**-24


class LikenessTable:
    """A moving average of each sample's D over its visits, two bytes a sample.

    Args:
        num_samples: N.
        seed: of the draws.
        memory: weight of the visits before the last one, in [0, 1).
        sharpness: beta, what D is multiplied by before a choice is drawn, >= 0.
    """

    def __init__(self, num_samples: int, *, seed: int, memory: float, sharpness: float) -> None:
        self._num_samples = num_samples
        self._seed = seed
        self._memory = memory
        self._sharpness = sharpness
        self._average = torch.full((num_samples,), UNSEEN, dtype=torch.float16)

    def rows(self, score: Tensor) -> Tensor:
        """What to keep of rows: D, float32 `[M, 1]`."""
        return score.unsqueeze(1)

    def merge(self, index: Tensor, values: Tensor) -> None:
        """Take in D (`[M, 1]`) of distinct samples: `e <- memory e + (1 - memory) D`."""
        score, before = values[:, 0], self._average[index].float()
        mixed = self._memory * before + (1 - self._memory) * score
        self._average[index] = torch.where(before == UNSEEN, score, mixed).to(torch.float16)

    def averages(self) -> Tensor:
        """float32 `[N]`: e_i; zero, as of an average row, before a first visit."""
        average = self._average.float()
        return average.masked_fill_(average == UNSEEN, 0.0)

    def avoided(self, count: int) -> float:
        """Share of the samples that are drawn less than half as often as by a uniform draw.

        In [0, 1), 0 before a first visit; of very many samples from every n-th.

        Args:
            count: samples in a draw.
        """
        stride = -(-self._num_samples // BLOCK)
        rewards = self.reward(self.averages()[::stride])
        chances = inclusion(self._sharpness * rewards, count / self._num_samples)
        return float((chances < 0.5 * count / self._num_samples).double().mean())

    def expected_actions(self) -> Tensor:
        """float32 `[N]`: how likely each is a trusted row, where as many are as are not."""
        return torch.sigmoid(self.averages())

    def scores(self, epoch: int) -> Tensor:
        """float32 `[N]`: `beta e_i` and Gumbel noise of each sample, which turns with the epochs.

        The highest of these scores are a draw without replacement in proportion to `exp(beta e)`
        (Yellott 1977; Kool et al. 2019, https://arxiv.org/abs/1903.06059): the policy of maximum
        entropy for the reward e. A sample without a visit is taken for an average one.

        The noise is that of a permanent random number in [0, 1) a sample, moved on by the golden
        ratio in each epoch (as samples of surveys are coordinated: Ohlsson 1995). One epoch is a
        draw like any other; over epochs each sample comes as often as it should, nearly evenly
        spaced, where independent draws would leave some out for long. Where all rewards are equal
        the samples take turns.
        """
        turned = epoch * _GOLDEN % 1.0
        scores = torch.empty(self._num_samples, dtype=torch.float32)
        for block, start in enumerate(range(0, self._num_samples, BLOCK)):
            rows = slice(start, start + BLOCK)
            average = self._average[rows].float()
            average.masked_fill_(average == UNSEEN, 0.0)
            draws = generator(self._seed, Purpose.REDRAW, block)
            place = torch.rand(len(average), generator=draws).add_(turned).remainder_(1.0)
            noise = place.clamp_(_LEAST, 1 - _LEAST).log_().neg_().log_().neg_()
            scores[rows] = noise.add_(self.reward(average), alpha=self._sharpness)
        return scores

    def reward(self, average: Tensor) -> Tensor:
        """What of averages, float32 `[M]`, counts as the reward: the averages themselves."""
        return average

    def state_dict(self) -> dict[str, Any]:
        """The averages, float16 `[N]`."""
        return {"average": self._average.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned.

        Raises:
            CheckpointError: another shape or dtype, or an infinite value.
        """
        shape = (self._num_samples,)
        average = require_tensor(state, "average", shape=shape, dtype=torch.float16)
        if not average.isfinite().all():
            raise CheckpointError("an average likeness is not finite.")
        self._average = average


def inclusion(log_weights: Tensor, share: float) -> Tensor:
    """How likely each sample is drawn where a share of all is drawn in proportion to weights.

    `p_i = 1 - exp(-t w_i)` with t such that the mean of p is `share`: sample i comes at a time
    drawn from an exponential distribution of rate w_i, and those that come first are taken; with
    many samples the last of them comes at about t (Efraimidis and Spirakis 2006).

    Args:
        log_weights: float `[N]`, the logarithms of w: weights may differ by any factor.
        share: in (0, 1].

    Returns:
        float64 `[N]`, in [0, 1].
    """
    rates = log_weights.double() - log_weights.double().max()
    # The logarithm of t, between where at most so many are drawn and where all are.
    low, high = math.log(share), _SURELY - float(rates.min())
    while high - low > _CLOSE:
        middle = (low + high) / 2
        is_early = float(_drawn_by(rates + middle).mean()) < share
        low, high = (middle, high) if is_early else (low, middle)
    return _drawn_by(rates + high)


def _drawn_by(log_time: Tensor) -> Tensor:
    return -torch.expm1(-log_time.exp())
