"""Prompts worth rolling out: who chooses them for reinforcement fine-tuning, and how."""

from data_agent.prompts.agent import PromptAgent as PromptAgent
from data_agent.prompts.config import PromptConfig as PromptConfig
from data_agent.prompts.selector import Choice as Choice
from data_agent.prompts.selector import PromptSelector as PromptSelector
from data_agent.prompts.selector import Scored as Scored
from data_agent.prompts.utility import Groups as Groups

__all__ = ["Choice", "Groups", "PromptAgent", "PromptConfig", "PromptSelector", "Scored"]
