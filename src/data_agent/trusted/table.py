"""What is remembered of each sample's likeness to trusted rows, and the ranking drawn from it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from data_agent.errors import CheckpointError
from data_agent.runtime.random import Purpose, generator
from data_agent.runtime.state import require_tensor

UNSEEN = torch.finfo(torch.float16).max  # in place of an average
BLOCK = 65_536  # samples that share a seed, so that draws depend on neither rank nor memory


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

    def expected_actions(self) -> Tensor:
        """float32 `[N]`: how likely each is a trusted row, where as many are as are not."""
        return torch.sigmoid(self.averages())

    def scores(self, epoch: int) -> Tensor:
        """float32 `[N]`: `beta e_i` and Gumbel noise, drawn anew for each sample in each epoch.

        The highest of these scores are a draw without replacement in proportion to `exp(beta e)`
        (Yellott 1977; Kool et al. 2019, https://arxiv.org/abs/1903.06059): the policy of maximum
        entropy for the reward e. A sample without a visit is taken for an average one.
        """
        scores = torch.empty(self._num_samples, dtype=torch.float32)
        for block, start in enumerate(range(0, self._num_samples, BLOCK)):
            rows = slice(start, start + BLOCK)
            average = self._average[rows].float()
            average.masked_fill_(average == UNSEEN, 0.0)
            draws = generator(self._seed, Purpose.REDRAW, epoch, block)
            noise = torch.empty_like(average).exponential_(generator=draws).log_().neg_()
            scores[rows] = noise.add_(average, alpha=self._sharpness)
        return scores

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
