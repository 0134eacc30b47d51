"""Buckets of a difficulty that is known before training, the one in use moving with success.

In the manner of Shi et al. 2025 (AdaRFT, https://arxiv.org/abs/2504.05520): where prompts succeed
more often than one half harder ones follow, where less often easier ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from data_agent.errors import InputError
from data_agent.prompts.choice import Choice, Scored
from data_agent.prompts.selector import PromptSelector
from data_agent.prompts.utility import Groups

NUM_BUCKETS = 10
RATE = 1.0  # so a batch without success, or with nothing else, moves it by half a bucket
TARGET = 0.5


class BucketPrompts(PromptSelector):
    """Chooses the candidates whose bucket is nearest to the one in use, the easiest at first.

    Args:
        num_prompts: N.
        generations: G.
        difficulty: of each prompt, any finite numbers, the higher the harder; ten buckets of equal
            size are made of their order.
        options: further arguments of `PromptSelector`.

    Raises:
        InputError: not one difficulty for each prompt.
    """

    name = "buckets"
    reads_features = False

    def __init__(
        self,
        num_prompts: int,
        generations: int,
        *,
        difficulty: Sequence[float] | Tensor,
        **options: Any,
    ) -> None:
        super().__init__(num_prompts, generations, **options)
        given = torch.as_tensor(difficulty, dtype=torch.float64)
        if given.shape != (num_prompts,) or not given.isfinite().all():
            raise InputError(
                f"difficulty is {list(given.shape)}; expected finite numbers [{num_prompts}], one "
                "for each prompt."
            )
        rank = given.argsort(stable=True).argsort(stable=True)
        self._bucket = rank * NUM_BUCKETS // num_prompts
        self._in_use = 0.0

    def score(self, index: Tensor, features: Tensor | None) -> Scored:
        """Minus the distance to the bucket in use."""
        del features
        return Scored(-(self._bucket[index] - self._in_use).abs())

    def update(self, choice: Choice, groups: Groups) -> None:
        """Move by what the batch's mean success is above one half."""
        del choice
        success = groups.success[~groups.success.isnan()]
        if len(success):
            moved = self._in_use + RATE * (float(success.mean()) - TARGET)
            self._in_use = min(float(NUM_BUCKETS - 1), max(0.0, moved))

    def method_metrics(self) -> dict[str, float]:
        """The bucket in use, in [0, 9]."""
        return {"bucket": self._in_use}

    def method_state(self) -> dict[str, Any]:
        """The bucket in use."""
        return {"in_use": self._in_use}

    def load_method_state(self, state: Mapping[str, Any]) -> None:
        """Take over what `method_state` returned."""
        self._in_use = float(state["in_use"])
