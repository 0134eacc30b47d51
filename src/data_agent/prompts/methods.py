"""Every way to choose prompts by its name. A new one is a file and a line in this table."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from data_agent.errors import InputError
from data_agent.prompts.agent import PromptAgent
from data_agent.prompts.baselines.buckets import BucketPrompts
from data_agent.prompts.baselines.categories import CategoryPrompts
from data_agent.prompts.baselines.filtering import FilteredPrompts
from data_agent.prompts.baselines.posterior import PosteriorPrompts
from data_agent.prompts.baselines.regression import RegressedPrompts
from data_agent.prompts.baselines.uniform import UniformPrompts
from data_agent.prompts.selector import PromptSelector

PROMPT_METHODS: Mapping[str, type[PromptSelector]] = {
    method.name: method
    for method in (
        PromptAgent,
        UniformPrompts,
        PosteriorPrompts,
        FilteredPrompts,
        CategoryPrompts,
        BucketPrompts,
        RegressedPrompts,
    )
}
"""The class of every method that chooses prompts, by its name."""


def make_prompt_selector(
    name: str, *, num_prompts: int, generations: int, batch: int, seed: int = 0, **options: Any
) -> PromptSelector:
    """The method called `name`.

    Args:
        name: one of `PROMPT_METHODS`.
        num_prompts: N, prompts in the data set.
        generations: G, completions of each prompt.
        batch: k, prompts of a generation batch.
        seed: of every draw.
        options: further arguments of that method.

    Raises:
        InputError: an unknown name, a value out of its range, or an option that is missing.
    """
    if name not in PROMPT_METHODS:
        raise InputError(
            f"method {name!r} is unknown; expected one of {', '.join(PROMPT_METHODS)}. Hand over a "
            "PromptSelector for one of your own."
        )
    arguments = inspect.signature(PROMPT_METHODS[name]).parameters.values()
    required = [a.name for a in arguments if a.kind is a.KEYWORD_ONLY and a.default is a.empty]
    if missing := [option for option in required if option not in {*options, "batch"}]:
        given = ", ".join(f"{option}=[...]" for option in missing)
        raise InputError(
            f"method {name!r} needs {given}, one for each prompt. Where a trainer makes it, hand "
            f"over functools.partial(make_prompt_selector, {name!r}, {given})."
        )
    return PROMPT_METHODS[name](num_prompts, generations, batch=batch, seed=seed, **options)
