"""The laws that every selector keeps, as a check for one's own: `check_selector(make)`.

    check_selector(MySelector)      # raises an AssertionError that names the broken law

Methods that choose prompts have laws of their own: `check_prompt_agent(make)`.

Each law is a function of its own, so that a test suite can run them one by one (`LAWS`).
"""

from __future__ import annotations

from data_agent.testing.laws import LAWS
from data_agent.testing.prompts import PROMPT_LAWS, check_prompt_agent
from data_agent.testing.runs import Make

__all__ = ["LAWS", "PROMPT_LAWS", "Make", "check_prompt_agent", "check_selector"]


def check_selector(make: Make) -> None:
    """Run every law on the selector that `make` builds.

    Args:
        make: called as `make(num_samples=..., epochs=..., keep_ratio=..., seed=...)`; must return
            a new selector each time.

    Raises:
        AssertionError: a law is broken; the message names it.
    """
    for law in LAWS.values():
        law(make)
