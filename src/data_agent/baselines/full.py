"""Full training: every sample in every epoch. The reference of each comparison."""

from __future__ import annotations

from typing import Any

from data_agent.selecting.selector import Selector


class Full(Selector):
    """Visits the whole dataset in every epoch, whatever `keep_ratio` says."""

    name = "full"
    default_schedule = "uniform"

    def __init__(self, *, keep_ratio: float = 1.0, **base: Any) -> None:
        del keep_ratio
        super().__init__(keep_ratio=1.0, **base)
