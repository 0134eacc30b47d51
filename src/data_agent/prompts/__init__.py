"""Prompts worth rolling out: who chooses them for reinforcement fine-tuning, and how."""

from data_agent.prompts.agent import PromptAgent as PromptAgent
from data_agent.prompts.choice import Choice as Choice
from data_agent.prompts.choice import Scored as Scored
from data_agent.prompts.config import PromptConfig as PromptConfig
from data_agent.prompts.methods import PROMPT_METHODS as PROMPT_METHODS
from data_agent.prompts.methods import make_prompt_selector as make_prompt_selector
from data_agent.prompts.selector import PromptSelector as PromptSelector
from data_agent.prompts.utility import Groups as Groups

__all__ = [
    "PROMPT_METHODS",
    "Choice",
    "Groups",
    "PromptAgent",
    "PromptConfig",
    "PromptSelector",
    "Scored",
    "make_prompt_selector",
]
