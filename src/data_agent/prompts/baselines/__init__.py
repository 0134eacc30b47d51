"""Other ways to choose prompts, one file each."""

from data_agent.prompts.baselines.buckets import BucketPrompts as BucketPrompts
from data_agent.prompts.baselines.categories import CategoryPrompts as CategoryPrompts
from data_agent.prompts.baselines.filtering import FilteredPrompts as FilteredPrompts
from data_agent.prompts.baselines.posterior import PosteriorPrompts as PosteriorPrompts
from data_agent.prompts.baselines.regression import RegressedPrompts as RegressedPrompts
from data_agent.prompts.baselines.uniform import UniformPrompts as UniformPrompts

__all__ = [
    "BucketPrompts",
    "CategoryPrompts",
    "FilteredPrompts",
    "PosteriorPrompts",
    "RegressedPrompts",
    "UniformPrompts",
]
