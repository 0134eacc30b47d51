"""Whose turn it is: samples skipped for the most epochs come first."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from data_agent.errors import CheckpointError
from data_agent.runtime.random import Purpose, permutation
from data_agent.runtime.state import require_tensor


class Turns:
    """A queue of all samples, in random order at first; four bytes a sample.

    Args:
        num_samples: N.
        seed: of the first order.
    """

    def __init__(self, num_samples: int, seed: int) -> None:
        self._queue = permutation(num_samples, seed, Purpose.UNIFORM).to(torch.int32)

    def scores(self) -> Tensor:
        """float32 `[N]`: the further ahead in the queue, the higher."""
        scores = torch.empty(len(self._queue), dtype=torch.float32)
        scores[self._queue] = -torch.arange(len(self._queue), dtype=torch.float32)
        return scores

    def take(self, index: Tensor) -> None:
        """Move the samples of an epoch (int64 `[K]`) to the end, in the order they had."""
        taken = torch.zeros(len(self._queue), dtype=torch.bool).index_fill_(0, index, True)
        goes_back = taken.index_select(0, self._queue)
        self._queue = torch.cat([self._queue[~goes_back], self._queue[goes_back]])

    def state_dict(self) -> dict[str, Any]:
        """The queue, int32 `[N]`."""
        return {"queue": self._queue.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned.

        Raises:
            CheckpointError: a sample is missing or repeated.
        """
        size = len(self._queue)
        queue = require_tensor(state, "queue", shape=(size,), dtype=torch.int32)
        if not queue.sort().values.equal(torch.arange(size, dtype=torch.int32)):
            raise CheckpointError("its queue does not hold every sample once.")
        self._queue = queue
