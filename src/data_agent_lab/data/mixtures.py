"""Instructions of several sources: rows of other data mixed into those of a task."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np

from data_agent.errors import InputError
from data_agent_lab.data.image_data import DATA_SEED, num_foreign
from data_agent_lab.data.origins import NO_ROW
from data_agent_lab.data.sources import choose_splits, open_rows
from data_agent_lab.data.tokens import ROW
from data_agent_lab.recipes import TextRecipe

FOREIGN = "is_foreign"
"""Column that marks rows of other sources until the data are made."""


def num_own(recipe: TextRecipe) -> int | None:
    """How many rows of `--subset` are of the task's own data; None where all of these are taken."""
    if recipe.subset is None:
        return None
    return recipe.subset - math.floor(recipe.foreign_share * recipe.subset + 0.5)


def foreign_rows(recipe: TextRecipe, num_own: int) -> list[datasets.Dataset]:
    """Rows of each foreign source, which make up the recipe's share beside `num_own` others.

    Raises:
        InputError: a source that cannot be read or has too few rows.
    """
    if recipe.foreign_data is None:
        return []
    names = [name.strip() for name in recipe.foreign_data.split(",")]
    each, rest = divmod(num_foreign(recipe.foreign_share, num_own), len(names))
    return [_drawn(name, each + (place < rest)) for place, name in enumerate(names)]


def mixed(own: dict[str, Any], others: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Columns of all rows, the task's own first; with others a column that marks these."""
    if not others:
        return own
    columns = {name: sum((part[name] for part in others), own[name]) for name in own}
    num_rows, num_others = len(own["input_ids"]), sum(len(part["input_ids"]) for part in others)
    marks = {FOREIGN: [0] * num_rows + [1] * num_others, ROW: own[ROW] + [NO_ROW] * num_others}
    return {**columns, **marks}


def shuffled(rows: datasets.Dataset) -> np.ndarray:
    """Positions of rows in an order drawn once for all runs: int64 `[N]`."""
    return np.random.default_rng(DATA_SEED).permutation(len(rows))


def _drawn(name: str, count: int) -> datasets.Dataset:
    rows, _ = choose_splits(open_rows(name, flag="--foreign-data"), lambda _: False)
    if count > len(rows):
        raise InputError(
            f"--foreign-share asks for {count} rows of {name}, which has {len(rows)} to train on. "
            "Use a smaller --foreign-share or --subset."
        )
    return rows.select(np.sort(shuffled(rows)[:count]))
