from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from data_agent import DataAgentError
from data_agent_lab.recipes import RunConfig
from data_agent_lab.tasks import TASKS, load_task, recipe_for


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_a_complete_recipe(task: str) -> None:
    assert recipe_for(task).task == task


def test_an_unknown_task_is_answered_with_those_there_are() -> None:
    with pytest.raises(DataAgentError, match=r"task 'svhn' is unknown.*digits, cifar10, image"):
        recipe_for("svhn")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("subset", 0),
        ("image_size", 7),
        ("label_noise", 1.0),
        ("label_noise", -0.1),
        ("imbalance", 0.5),
        ("imbalance", float("inf")),
        ("duplicates", 1.0),
        ("duplicates", -0.1),
        ("train_labels", "labels.parquet"),
        ("train_labels", ":column"),
        ("width", 0),
        ("epochs", 0),
        ("epochs", 2.5),
        ("batch_size", True),
        ("accumulation", 0),
        ("optimizer", "lion"),
        ("learning_rate", 0.0),
        ("learning_rate", float("inf")),
        ("schedule", "linear"),
        ("weight_decay", -1.0),
        ("momentum", 1.0),
        ("label_smoothing", 1.0),
        ("precision", "fp8"),
        ("augment", "flip"),
        ("num_evaluations", 0),
        ("num_threads", 0),
    ],
)
def test_a_value_out_of_range_is_named_with_what_was_expected(field: str, value: Any) -> None:
    flag = "--" + field.replace("_", "-")
    with pytest.raises(DataAgentError) as caught:
        replace(recipe_for("digits"), **{field: value})
    assert str(caught.value).startswith(f"{flag} is {value!r}; expected ")


def test_adamw_at_a_rate_made_for_sgd_is_refused() -> None:
    with pytest.raises(DataAgentError, match=r"--learning-rate is 0\.2.*adamw"):
        replace(recipe_for("cifar10"), optimizer="adamw")
    replace(recipe_for("cifar10"), optimizer="adamw", learning_rate=1e-3)


def test_an_unknown_model_is_refused() -> None:
    with pytest.raises(DataAgentError, match="model 'vgg' is unknown"):
        replace(recipe_for("digits"), model="vgg")


def test_an_unknown_method_is_answered_with_those_there_are() -> None:
    with pytest.raises(DataAgentError, match=r"'toploss' is unknown.*data-agent.*full-short"):
        RunConfig(recipe=recipe_for("digits"), method="toploss")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("keep_ratio", 0.0),
        ("keep_ratio", 1.5),
        ("keep_ratio", float("nan")),
        ("seed", -1),
        ("seed", 0.5),
    ],
)
def test_a_budget_or_a_seed_out_of_range_is_named(field: str, value: Any) -> None:
    flag = "--" + field.replace("_", "-")
    with pytest.raises(DataAgentError) as caught:
        RunConfig(recipe=recipe_for("digits"), **{field: value})
    assert str(caught.value).startswith(f"{flag} is {value!r}; expected ")


def test_a_method_of_ones_own_is_found_by_module_and_class() -> None:
    own = "data_agent.baselines.random:Random"
    assert RunConfig(recipe=recipe_for("digits"), method=own).method == own
    with pytest.raises(DataAgentError, match="'nowhere:Random' cannot be imported"):
        RunConfig(recipe=recipe_for("digits"), method="nowhere:Random")


def test_digits_take_no_data_and_images_need_some() -> None:
    with pytest.raises(DataAgentError, match="digits has its own data"):
        load_task(replace(recipe_for("digits"), data="folder"))
    with pytest.raises(DataAgentError, match="digits has its own data"):
        load_task(replace(recipe_for("digits"), train_labels="a.parquet:b"))
    with pytest.raises(DataAgentError, match="--foreign-data is 'folder'"):
        load_task(replace(recipe_for("digits"), foreign_data="folder", foreign_share=0.5))
    with pytest.raises(DataAgentError, match="the task image needs --data"):
        load_task(recipe_for("image"))


@pytest.mark.parametrize("field", [{"label_noise": 0.3}, {"accumulation": 2}, {"data": "folder"}])
def test_prompts_of_a_world_refuse_what_is_for_samples_of_a_data_set(field: Any) -> None:
    with pytest.raises(DataAgentError, match=r"string-world.*[Ll]eave (it )?out"):
        replace(recipe_for("string-world"), **field)
