"""Every prompt in turn, as TRL's own sampler has it."""

from __future__ import annotations

from typing import Any

from data_agent.prompts.selector import PromptSelector


class UniformPrompts(PromptSelector):
    """Draws batches by turns: no prompt twice before all others came.

    Args:
        num_prompts: N.
        generations: G.
        options: `batch`, `seed` and `reward_range` of `PromptSelector`.
    """

    name = "uniform"
    reads_features = False

    def __init__(self, num_prompts: int, generations: int, **options: Any) -> None:
        everything: dict[str, Any] = {**options, "pool": 1, "explore": 0.0}
        super().__init__(num_prompts, generations, **everything)
