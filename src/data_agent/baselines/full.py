"""Full training: every sample in every epoch. The reference of each comparison."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from data_agent._selector import Selector


class Full(Selector):
    """Visits the whole dataset in every epoch, whatever `keep_ratio` says."""

    name: ClassVar[str] = "full"

    def __init__(
        self, *, num_samples: int, epochs: int, keep_ratio: float = 1.0, seed: int = 0, **base: Any
    ) -> None:
        del keep_ratio
        super().__init__(
            num_samples=num_samples,
            epochs=epochs,
            keep_ratio=1.0,
            seed=seed,
            schedule="uniform",
            **base,
        )

    def choose(self, epoch: int, count: int, excluded: Tensor) -> Tensor:
        """Never called: nothing is left to choose."""
        raise AssertionError("a uniform schedule chooses nothing")
