"""The flat configuration of a run, as its folder holds it, read whatever version wrote it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from data_agent_lab.detection_recipe import DetectionRecipe
from data_agent_lab.recipes import ImageRecipe, PromptRecipe, Recipe, TextRecipe


def recipe_of(config: Mapping[str, Any]) -> Recipe:
    """The recipe of a run's flat configuration; `DataAgentError` or TypeError if it has none."""
    kind = _kind_of(config)
    names = {field.name for field in fields(kind)}
    return kind(**{name: value for name, value in config.items() if name in names})


def with_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """A run's flat configuration, with all settings that its version of the lab did not have yet.

    A setting that comes later is one by whose default everything stays as it was.
    """
    defaults = {f.name: f.default for f in fields(_kind_of(config)) if f.default is not MISSING}
    missing = {name: value for name, value in defaults.items() if name not in config}
    return {**config, **missing}


def _kind_of(config: Mapping[str, Any]) -> type[Recipe]:
    kind = TextRecipe if "kind" in config else ImageRecipe
    kind = PromptRecipe if "generations" in config else kind
    return DetectionRecipe if "box_format" in config else kind
