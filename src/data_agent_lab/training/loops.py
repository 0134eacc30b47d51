"""Which loop a task is trained in: the lab's own for images, a Trainer's for language."""

from __future__ import annotations

from typing import Any

from data_agent.errors import InputError
from data_agent_lab.data.image_data import ImageData
from data_agent_lab.recipes import ImageRecipe, Recipe, RunConfig, TextRecipe
from data_agent_lab.runs.folder import RunFolder
from data_agent_lab.training.ranks import Sharding
from data_agent_lab.training.train import Speed, measure_speed, train


def train_run(
    config: RunConfig[Any],
    data: Any,
    folder: RunFolder,
    *,
    sharding: Sharding = "ddp",
    **options: Any,
) -> dict[str, Any] | None:
    """Train one run to its end, to a request to stop, or to an error; see `train.train`.

    Args:
        config: the run.
        data: what `tasks.load_task` gave for its recipe.
        folder: its folder, opened with `open_run`.
        sharding: how several ranks share the model.
        options: further arguments of the loop.

    Raises:
        InputError: sharding that the loop does not know.
    """
    if not isinstance(config.recipe, TextRecipe):
        return train(config, data, folder, sharding=sharding, **options)
    if sharding != "ddp":
        raise InputError(
            "--sharding fsdp is for image tasks; for language use data_agent.integrations.trl with "
            "the Trainer's own fsdp settings, or --sharding ddp."
        )
    # Importing the frameworks takes seconds, which only their runs need to wait for.
    from data_agent_lab.training.text_train import train_language

    return train_language(config, data, folder, **options)


def speed_of(recipe: Recipe, data: Any) -> Speed:
    """Time some steps of a recipe's full training, and a part of an evaluation."""
    if isinstance(recipe, TextRecipe):
        from data_agent_lab.training.text_train import measure_speed as of_language

        return of_language(recipe, data)
    assert isinstance(recipe, ImageRecipe)
    assert isinstance(data, ImageData)
    return measure_speed(recipe, data)
