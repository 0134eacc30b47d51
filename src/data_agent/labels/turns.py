"""Turns of samples: none of a class comes again until all of the class came."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_agent.labels.classes import Classes
from data_agent.runtime.masks import packed, unpacked
from data_agent.runtime.random import Purpose, derived_seed


class Turns:
    """Which samples had their turn in the running round of their class; a bit a sample.

    The samples of a class come in one order again and again, that of a hash, so the visits of any
    two differ by at most one. A sample that came by chance had its turn. One that could not be
    chosen had it too: else all that were rejected would come first once they are not. Nothing is
    allocated before the first turn.

    Args:
        num_samples: N.
        seed: of the order.
    """

    def __init__(self, num_samples: int, seed: int) -> None:
        self._num_samples = num_samples
        self._had: Tensor | None = None
        self.order_seed = derived_seed(seed, Purpose.UNIFORM)

    def waiting(self) -> Tensor:
        """Bool `[N]`: the samples that come before others of their class; a hash orders both."""
        if self._had is None:
            return torch.ones(self._num_samples, dtype=torch.bool)
        return unpacked(~self._had, self._num_samples)

    def take(
        self, taken: Tensor, by_turn: Tensor, barred: Tensor | None, classes: Classes | None
    ) -> None:
        """The samples of an epoch had their turn, and those that could not come.

        Args:
            taken: bool `[N]`, all of them.
            by_turn: bool `[N]`, those of them that came because it was their turn. It is used up.
            barred: bool `[N]`, those that could not be chosen; None for none.
            classes: of all samples; None where all are one.
        """
        had = self.waiting().logical_not_()
        again = by_turn.logical_and_(had)
        # Where somebody came a second time, a new round of the class has begun.
        begins = again.any() if classes is None else classes.with_any_of(again)
        either = torch.logical_or(had, taken, out=again)
        np.copyto(either.numpy(), had.logical_and_(taken).numpy(), where=begins.numpy())
        self._had = packed(either if barred is None else either.logical_or_(barred))

    def begin_anew(self) -> None:
        """No sample had a turn: visits are counted from here on."""
        self._had = None

    def state_dict(self) -> dict[str, Any]:
        """uint8 `[ceil(N / 8)]`, or None."""
        return {"had": None if self._had is None else self._had.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned; a CheckpointError if it does not fit."""
        had = state["had"]
        self._had = None if had is None else packed(unpacked(had, self._num_samples))
