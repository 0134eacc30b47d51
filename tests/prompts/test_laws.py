"""The laws of methods that choose prompts, for every one there is."""

from functools import partial

import pytest
import torch

from data_agent.errors import InputError
from data_agent.prompts import (
    PROMPT_METHODS,
    PromptAgent,
    PromptConfig,
    PromptSelector,
    Scored,
    make_prompt_selector,
)
from data_agent.testing import PROMPT_LAWS, check_prompt_agent
from data_agent.testing.prompts import NUM_PROMPTS

INPUTS = {
    "categories": {"categories": torch.arange(NUM_PROMPTS) % 3},
    "buckets": {"difficulty": torch.arange(NUM_PROMPTS) % 17},
}
SMALL = PromptConfig(hidden=8, replay_rows=40, evidence_rows=40, rollout_rows=20, max_features=3)
MAKERS = {
    name: partial(make_prompt_selector, name, **INPUTS.get(name, {})) for name in PROMPT_METHODS
} | {"prompt-agent": partial(PromptAgent, config=SMALL)}


@pytest.mark.parametrize("law", PROMPT_LAWS.values(), ids=PROMPT_LAWS)
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_law(make, law):
    law(make)


class Forgetful(PromptAgent):
    """Does not save the rows it learns from."""

    def method_state(self):
        state = super().method_state()
        return {**state, "replay": {"rows": state["replay"]["rows"][:0]}}


class Careless(PromptSelector):
    """Draws from the global generator."""

    name = "careless"

    def score(self, index, features):
        return Scored(torch.rand(len(index)))


def test_the_kit_finds_an_agent_that_forgets():
    with pytest.raises(AssertionError, match="resumed at batch"):
        check_prompt_agent(partial(Forgetful, config=SMALL))


def test_the_kit_finds_draws_that_no_seed_decides():
    with pytest.raises(AssertionError, match="one seed differ"):
        check_prompt_agent(Careless)


@pytest.mark.parametrize("name", INPUTS)
def test_what_a_method_needs_for_each_prompt_is_named(name):
    (option,) = INPUTS[name]
    with pytest.raises(InputError, match=rf"{name!r} needs {option}=\[...\].* functools.partial"):
        make_prompt_selector(name, num_prompts=10, generations=2, batch=2)
