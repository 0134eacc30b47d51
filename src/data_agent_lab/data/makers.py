"""Who makes the problems of a recipe."""

from __future__ import annotations

from data_agent_lab.data.problems import ProblemData
from data_agent_lab.data.reasoning import load_reasoning
from data_agent_lab.data.strings import load_strings
from data_agent_lab.recipes import PromptRecipe


def load_problems(recipe: PromptRecipe) -> ProblemData:
    """The problems of a recipe; a function of the recipe alone."""
    return load_strings(recipe) if recipe.problems == "string-world" else load_reasoning(recipe)
