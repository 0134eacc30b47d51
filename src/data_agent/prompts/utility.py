"""What a group of completions says of its prompt. Pure functions, one for each equation.

A group's gradient in GRPO (Shao et al. 2024, https://arxiv.org/abs/2402.03300, eq. 3) and in RLOO
(Ahmadian et al. 2024, https://arxiv.org/abs/2402.14740, eq. 7) is a sum over (reward - mean) terms:
it vanishes where all rewards are equal, which Yu et al. 2025 (DAPO, https://arxiv.org/abs/2503.14476,
section 3.2) filter out after generation.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_EQUAL = 1e-6  # rewards closer than this, in units of their range, are the same


class Groups(NamedTuple):
    """What a batch's groups say of their prompts; NaN where nothing is known.

    Attributes:
        success: float32 `[k]` in [0, 1], the mean reward in units of the rewards' range.
        utility: float32 `[k]` in [0, 1], see `utility_of`; unknown with fewer than two rewards.
        is_informative: bool `[k]`, whether the known rewards differ.
    """

    success: Tensor
    utility: Tensor
    is_informative: Tensor


def mixed_chance(success: Tensor, size: Tensor) -> Tensor:
    """P(a group of G is mixed) = 1 - p^G - (1 - p)^G, of any shape.

    Args:
        success: p in [0, 1].
        size: G, >= 0, of the same shape.
    """
    return (1 - success**size - (1 - success) ** size).clamp_min(0)


def relative_spread(success: Tensor, variance: Tensor) -> Tensor:
    """Spread s = sqrt(v / (p (1 - p))) in [0, 1]: the deviation against the largest of its mean.

    Rewards in [0, 1] with mean p vary most where they are 0 or 1 only, by p (1 - p) (Bhatia and
    Davis 2000, "A Better Bound on the Variance"); so s = 1 for those.
    """
    largest = (success * (1 - success)).clamp_min(1e-12)
    return (variance / largest).clamp(0, 1).sqrt()


def utility_of(success: Tensor, variance: Tensor, size: Tensor) -> Tensor:
    """Utility u = (1 - p)(1 - p^G - (1 - p)^G) s: room, chance of a mixed group, spread.

    Args:
        success: p, the group's mean reward in [0, 1].
        variance: v, the group's variance (the mean square deviation).
        size: G, the number of known rewards.
    """
    return (1 - success) * mixed_chance(success, size) * relative_spread(success, variance)


def combined(rewards: Tensor, weights: Tensor | None = None) -> Tensor:
    """The weighted sum over reward functions that apply, as TRL forms it: `[k, G]`.

    Args:
        rewards: `[k, G, R]`, NaN where a function does not apply.
        weights: `[R]`; None for ones.

    Returns:
        NaN where no function applies.
    """
    weighted = rewards if weights is None else rewards * weights
    is_unknown = rewards.isnan().all(-1)
    return weighted.nansum(-1).masked_fill(is_unknown, torch.nan)


def groups_of(rewards: Tensor, low: float, high: float) -> Groups:
    """What rewards `[k, G]`, NaN where unknown, say when they lie in [low, high].

    In a range without width every known group succeeds by a half and is worth nothing.
    """
    width = high - low
    scaled = (rewards - low) / width if width > 0 else torch.full_like(rewards, 0.5) + 0 * rewards
    scaled = scaled.clamp(0, 1)
    size = (~scaled.isnan()).sum(1)
    success = scaled.nanmean(1)
    variance = (scaled - success.unsqueeze(1)).square().nanmean(1)
    spread = scaled.nan_to_num(-1).amax(1) - scaled.nan_to_num(2).amin(1)
    is_informative = (size > 1) & (spread > _EQUAL)
    utility = utility_of(success, variance, size) * is_informative
    return Groups(success, utility.masked_fill(size < 2, torch.nan), is_informative)
