"""Methods that are told, every few epochs, how good the model is on every sample."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from data_agent.baselines.scored import Remembers
from data_agent.errors import InputError
from data_agent.selecting.selector import Selector

__all__ = ["Refreshed"]


class Refreshed(Remembers, Selector):
    """Keeps how good the model is on each sample; the loop looks at all of them when it is due.

        for epoch in selector.epochs():
            ...                                     # an epoch of training
            if selector.is_due(epoch + 1):
                selector.refresh(goodness)          # [N] in [0, 1]

    The looks are paid for: a forward pass of each sample, every `every` epochs.

    Args:
        every: epochs from one look to the next, 1 or more.
        base: as `Selector`.

    Raises:
        InputError: a value outside its range.
    """

    remembered = ("goodness",)

    def __init__(self, *, every: int = 5, **base: Any) -> None:
        super().__init__(**base)
        if not isinstance(every, int) or isinstance(every, bool) or every < 1:
            raise InputError(f"every is {every!r}; expected a whole number of epochs, 1 or more.")
        self.every = every
        self.goodness = torch.full((self.schedule.num_samples,), torch.nan)
        """float32 `[N]` in [0, 1]; NaN before the first look."""

    def settings(self) -> dict[str, Any]:
        """The epochs between two looks."""
        return {**super().settings(), "every": self.every}

    def is_due(self, epoch: int) -> bool:
        """Whether `refresh` is to be called before `epoch` begins.

        So it is before the first epoch in which something is chosen, and every few epochs from
        there on.
        """
        first = next(filter(self._is_chosen, range(self.schedule.epochs)), 0)
        in_run = epoch < self.schedule.epochs
        return in_run and self._is_chosen(epoch) and (epoch - first) % self.every == 0

    def _is_chosen(self, epoch: int) -> bool:
        """Whether there is something to choose, and something to leave out."""
        plan = self.schedule.plan(epoch)
        return plan.num_selected > 0 and plan.size < self.schedule.num_samples

    def refresh(self, goodness: Tensor) -> None:
        """Take over how good the model is on every sample, by now; on all ranks the same.

        Args:
            goodness: float `[N]` in [0, 1], 1 where nothing is left to learn.

        Raises:
            InputError: other values, or not one for each sample.
        """
        size = self.schedule.num_samples
        if not isinstance(goodness, Tensor) or goodness.shape != (size,):
            came = list(goodness.shape) if isinstance(goodness, Tensor) else type(goodness).__name__
            raise InputError(f"refresh() got {came}; expected a tensor [{size}], one a sample.")
        values = goodness.detach().float().cpu()
        if not bool(((values >= 0) & (values <= 1)).all()):
            raise InputError(
                f"refresh() got values from {float(values.min()):g} to {float(values.max()):g}; "
                "expected shares in [0, 1], 1 where nothing is left to learn."
            )
        self.goodness = values.clone()
