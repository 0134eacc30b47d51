"""The laws of the library, for every selector there is."""

from functools import partial

import pytest
import torch
from makers import maker_of

from data_agent import DataAgent, DataAgentConfig, Selector, make_selector
from data_agent.labels import LabelRules
from data_agent.methods import METHODS
from data_agent.testing import LAWS, check_selector
from data_agent.testing.laws import law_exact_budget
from data_agent.testing.runs import NUM_SAMPLES
from data_agent.trusted import TrustedConfig

VARIANTS = {
    "data-agent last-action": DataAgentConfig(ranking="last-action", reward="paper"),
    "data-agent gae": DataAgentConfig(gamma=0.9, update_every=3, rollout_rows=16),
    "data-agent to the end": DataAgentConfig(
        schedule="to-the-end", label_rules=LabelRules(fewest_classes=2)
    ),
}
INPUTS = {
    "labels": torch.arange(NUM_SAMPLES) % 4,
    "groups": torch.arange(NUM_SAMPLES) % 7,
    "scores": torch.rand(NUM_SAMPLES, generator=torch.Generator().manual_seed(0)),
}


MAKERS = {name: maker_of(name, INPUTS) for name in METHODS} | {
    name: partial(DataAgent, config=config) for name, config in VARIANTS.items()
}
MAKERS["data-agent trusted"] = partial(
    DataAgent, trusted=range(4), config=TrustedConfig(update_every=3)
)
MAKERS["noise-aware of four classes"] = partial(
    make_selector,
    "noise-aware",
    label_rules=LabelRules(fewest_classes=2, fewest_signs=1, least_share=0.0),
)
MAKERS["random with trusted rows"] = partial(make_selector, "random", trusted=range(4))
MAKERS["class-balanced with trusted rows"] = partial(
    maker_of("class-balanced-random", INPUTS), trusted=range(4)
)
MAKERS["spread over duplicates with trusted rows"] = partial(
    maker_of("spread-over-duplicates", INPUTS), trusted=range(4)
)


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_law(make, law):
    law(make)


class Stuck(Selector):
    """Breaks the budget's promise of distinct samples."""

    name = "stuck"

    def choose(self, epoch, count, excluded):
        return torch.zeros(count, dtype=torch.int64)


class Forgetful(DataAgent):
    """Does not save its tables."""

    def method_state(self):
        state = super().method_state()
        fresh = DataAgent(self.schedule.num_samples, self.schedule.epochs).method_state()
        return {**state, "table": fresh["table"]}


def test_the_kit_finds_a_selector_that_repeats_samples():
    with pytest.raises(Exception, match="repeat"):
        law_exact_budget(Stuck)


def test_the_kit_finds_a_selector_that_forgets():
    with pytest.raises(AssertionError, match="resumed at epoch"):
        check_selector(Forgetful)
