"""What a method says of candidates, and the batch that is chosen by it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Scored:
    """What a method says of candidates.

    Args:
        ranking: float `[M]`, the highest are chosen; None draws uniformly.
        columns: float32 `[M, C]` or None: what the method wants back of the chosen ones when their
            rewards are there.
    """

    ranking: Tensor | None = None
    columns: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """The batch that was chosen and not yet learned from.

    Args:
        index: int64 `[k]`, ascending.
        is_uniform: bool `[k]`, which of them no ranking brought.
        columns: float32 `[k, C]` or None, see `Scored`.
    """

    index: Tensor
    is_uniform: Tensor
    columns: Tensor | None
