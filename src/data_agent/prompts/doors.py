"""Checks of what comes in from outside: sizes, index, features, rewards."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from data_agent.errors import InputError


def check_sizes(num_prompts: int, generations: int, batch: int, pool: int) -> None:
    """Whole numbers: N >= 1, G >= 2, k in [1, N], pool >= 1."""
    for name, value, least in (
        ("num_prompts", num_prompts, 1),
        ("generations", generations, 2),
        ("batch", batch, 1),
        ("pool", pool, 1),
    ):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise InputError(f"{name} is {value!r}; expected a whole number >= {least}.")
    if batch > num_prompts:
        raise InputError(
            f"batch is {batch}, but there are {num_prompts} prompts, and a batch holds none twice. "
            "Take smaller generation batches."
        )


def check_share(name: str, value: float) -> None:
    """A number in [0, 1]."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1:
        raise InputError(f"{name} is {value!r}; expected a number in [0, 1].")


def check_reward_range(ends: Any) -> None:
    """None, or a pair of finite numbers low < high."""
    if ends is None:
        return
    is_pair = isinstance(ends, tuple) and len(ends) == 2
    if not is_pair or not all(isinstance(e, int | float) and isfinite(e) for e in ends):
        raise InputError(f"reward_range is {ends!r}; expected (low, high), or None.")
    if not ends[0] < ends[1]:
        raise InputError(f"reward_range is {ends!r}; expected low < high.")


def check_index(index: object, num_prompts: int, *, fewest: int) -> None:
    """int64 `[M]` on the host, distinct prompts, M >= fewest."""
    if not isinstance(index, Tensor) or index.dtype != torch.int64 or index.ndim != 1:
        raise InputError(f"index is {_kind(index)}; expected int64 [M], positions in the data set.")
    if len(index) < fewest:
        raise InputError(
            f"index has {len(index)} candidates, but a batch takes {fewest} prompts. Hand over "
            "what candidates() returns, or more prompts."
        )
    if int(index.min()) < 0 or int(index.max()) >= num_prompts:
        raise InputError(
            f"index lies in [{int(index.min())}, {int(index.max())}]; expected positions in "
            f"[0, {num_prompts})."
        )
    if len(index.unique()) < len(index):
        raise InputError("index holds a prompt twice; expected distinct prompts.")


def checked_features(features: Any, size: int) -> Tensor | None:
    """float32 `[M, F]` on the host, or None."""
    if features is None:
        return None
    is_table = isinstance(features, Tensor) and features.ndim == 2 and features.is_floating_point()
    if not is_table or len(features) != size or not features.shape[1]:
        raise InputError(
            f"features are {_kind(features)}; expected floating [{size}, F], a row for each "
            "candidate."
        )
    table = features.detach().to("cpu", torch.float32)
    if num_bad := int((~table.isfinite()).any(1).sum()):
        raise InputError(f"features of {num_bad} of {size} candidates are not finite.")
    return table


def place_in(chosen: Tensor, index: object) -> Tensor:
    """int64 `[k]`: where each of the `chosen` prompts, ascending, stands in `index`."""
    if not isinstance(index, Tensor) or index.dtype != torch.int64 or index.ndim != 1:
        raise InputError(f"index is {_kind(index)}; expected int64 [k], what choose() returned.")
    ordered, place = index.sort()
    if not torch.equal(ordered, chosen):
        raise InputError(
            f"rewards came for {len(index)} prompts, {_some(index)}; expected each of the "
            f"{len(chosen)} that choose() returned once, {_some(chosen)}. Use NaN where no reward "
            "is known."
        )
    return place


def checked_rewards(
    rewards: object, weights: Tensor | None, shape: tuple[int, int]
) -> tuple[Tensor, Tensor | None]:
    """float32 `[k, G, R]` on the host, and the functions' weights `[R]` or None."""
    if isinstance(rewards, Mapping):
        tables = list(rewards.values())
        if not tables or any(not _is_table(table, shape) for table in tables):
            kinds = {name: _kind(table) for name, table in rewards.items()}
            raise InputError(f"rewards are {kinds}; expected floating {list(shape)} of each.")
        rewards = torch.stack(tables, -1)
    if not isinstance(rewards, Tensor) or not _is_table(rewards, shape):
        raise InputError(
            f"rewards are {_kind(rewards)}; expected floating {list(shape)}, or {list(shape)} "
            "and one column for each reward function."
        )
    table = rewards.detach().to("cpu", torch.float32)
    table = table.unsqueeze(2) if table.ndim == 2 else table
    if table.isinf().any():
        raise InputError("rewards are infinite; expected numbers, NaN where nothing is known.")
    if weights is None:
        return table, None
    if not isinstance(weights, Tensor) or weights.shape != table.shape[2:]:
        raise InputError(
            f"weights are {_kind(weights)}; expected [{table.shape[2]}], a function's."
        )
    return table, weights.detach().to("cpu", torch.float32)


def _is_table(table: object, shape: tuple[int, int]) -> bool:
    return (
        isinstance(table, Tensor)
        and table.is_floating_point()
        and table.ndim in (2, 3)
        and tuple(table.shape[:2]) == shape
    )


def _some(index: Tensor) -> str:
    shown = ", ".join(map(str, index[:4].tolist()))
    return f"[{shown}, ...]" if len(index) > 4 else f"[{shown}]"


def _kind(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype} {list(value.shape)}"
    return f"a {type(value).__name__}"
