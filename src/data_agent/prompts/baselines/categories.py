"""A table over categories that the user names: sources, kinds of task, levels.

In the manner of Wang et al. 2025 (DUMP, https://arxiv.org/abs/2504.09710), which draws data sources
by what training on them brought of late; here that is the utility of their groups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from data_agent.errors import InputError
from data_agent.prompts.choice import Choice, Scored
from data_agent.prompts.selector import PromptSelector
from data_agent.prompts.utility import Groups
from data_agent.runtime.random import Purpose, generator
from data_agent.runtime.state import require_tensor

RATE = 0.1  # of a category's mean towards a new group's utility
TEMPERATURE = 0.1  # utilities lie in [0, 1]


class CategoryPrompts(PromptSelector):
    """Draws candidates in proportion to exp(mean utility of their category / 0.1).

    Args:
        num_prompts: N.
        generations: G.
        categories: a category for each prompt, integers >= 0.
        options: further arguments of `PromptSelector`.

    Raises:
        InputError: not one category for each prompt.
    """

    name = "categories"
    reads_features = False

    def __init__(
        self,
        num_prompts: int,
        generations: int,
        *,
        categories: Sequence[int] | Tensor,
        **options: Any,
    ) -> None:
        super().__init__(num_prompts, generations, **options)
        given = torch.as_tensor(categories)
        if given.is_floating_point() or given.shape != (num_prompts,) or int(given.min()) < 0:
            raise InputError(
                f"categories are {given.dtype} {list(given.shape)}; expected integers >= 0, "
                f"[{num_prompts}], one for each prompt."
            )
        self._categories = given.long()
        self._means = torch.full((int(given.max()) + 1,), 0.5)  # hopeful until it is tried

    def score(self, index: Tensor, features: Tensor | None) -> Scored:
        """Gumbel noise makes a draw of the highest (Gumbel 1954; Kool et al. 2019)."""
        del features
        draws = generator(self.seed, Purpose.ACTION, self.step)
        uniform = torch.rand(len(index), generator=draws, dtype=torch.float64).clamp(1e-12)
        gumbel = -(-uniform.log()).log()
        return Scored(self._means[self._categories[index]] / TEMPERATURE + gumbel)

    def update(self, choice: Choice, groups: Groups) -> None:
        """Move each category's mean, group by group."""
        is_known = ~groups.utility.isnan()
        category = self._categories[choice.index[is_known]].tolist()
        for number, utility in zip(category, groups.utility[is_known].tolist(), strict=True):
            self._means[number] += RATE * (utility - self._means[number])

    def method_state(self) -> dict[str, Any]:
        """The categories' means."""
        return {"means": self._means.clone()}

    def load_method_state(self, state: Mapping[str, Any]) -> None:
        """Take over what `method_state` returned."""
        shape = tuple(self._means.shape)
        self._means = require_tensor(state, "means", shape=shape, dtype=torch.float32)
