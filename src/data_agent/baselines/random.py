"""Random subsets, a fresh one each epoch, without replacement until every sample was seen (RS2).

Okanovic et al. 2024, "Repeated Random Sampling for Minimizing the Time-to-Accuracy of Learning",
https://arxiv.org/abs/2305.18424, Algorithm 1 ("without replacement"). Where a pass over the data
ends inside an epoch, the epoch goes on with the next pass and holds no sample twice.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from data_agent._selector import Selector


class Random(Selector):
    """The stream of permutations of the unselected phases, from the first epoch to the last."""

    name: ClassVar[str] = "random"

    def __init__(
        self, *, num_samples: int, epochs: int, keep_ratio: float, seed: int = 0, **base: Any
    ) -> None:
        super().__init__(
            num_samples=num_samples,
            epochs=epochs,
            keep_ratio=keep_ratio,
            seed=seed,
            schedule="uniform",
            **base,
        )

    def choose(self, epoch: int, count: int, excluded: Tensor) -> Tensor:
        """Never called: nothing is left to choose."""
        raise AssertionError("a uniform schedule chooses nothing")
