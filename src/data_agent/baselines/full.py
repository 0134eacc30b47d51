"""Full training: every sample in every epoch. The reference of each comparison."""

from __future__ import annotations

from typing import Any, ClassVar

from data_agent.budget.schedule import ScheduleKind
from data_agent.selecting.selector import Selector


class Full(Selector):
    """Visits the whole dataset in every epoch, whatever `keep_ratio` says."""

    name: ClassVar[str] = "full"
    default_schedule: ClassVar[ScheduleKind] = "uniform"

    def __init__(self, *, keep_ratio: float = 1.0, **base: Any) -> None:
        del keep_ratio
        super().__init__(keep_ratio=1.0, **base)
