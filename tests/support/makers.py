"""Selectors by name, with what some of them must be given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor

from data_agent import Selector, make_selector
from data_agent.baselines.refreshed import Refreshed
from data_agent.methods import method_class


def maker_of(name: str, inputs: Mapping[str, Tensor]) -> Callable[..., Selector]:
    """Makes it with those of "labels", "groups" and "scores" (in [0, 1]) that it needs."""
    required = {option: inputs[option] for option in method_class(name).required}
    make = partial(make_selector, name, **required)
    if not issubclass(method_class(name), Refreshed):
        return make

    def make_refreshed(**run: Any) -> Selector:
        selector = make(**run)
        assert isinstance(selector, Refreshed)
        selector.refresh(inputs["scores"])
        return selector

    return make_refreshed
