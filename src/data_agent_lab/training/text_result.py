"""What the result of a run on text says about its data and metrics."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_agent.errors import InputError
from data_agent_lab.data.texts import LanguageData
from data_agent_lab.recipes import RunConfig, TextRecipe
from data_agent_lab.training.text_trainers import AnyTrainer, training_rows


def text_facts(
    trainer: AnyTrainer,
    config: RunConfig[TextRecipe],
    data: LanguageData,
    last: Mapping[str, Any],
) -> dict[str, Any]:
    """Fields of a finished run's result; asks the evaluation harness where the recipe does.

    Args:
        trainer: at its end.
        config: the run.
        data: of its recipe.
        last: its last line of metrics.
    """
    recipe, rows = config.recipe, trainer.rows
    is_classifier = recipe.kind == "text-classification"
    noisy = training_rows(config, data)["labels"] if is_classifier else []
    true = data.train["labels"] if is_classifier else []
    others = {} if is_classifier else {"perplexity": _metric(last["perplexity"], "", "lower")}
    return {
        "unit": "%" if is_classifier else "nats",
        "direction": "higher" if is_classifier else "lower",
        "further_metrics": others | _harness_metrics(trainer, recipe, data),
        "evaluation": data.evaluation_source,
        "num_train_samples": len(rows),
        "num_eval_samples": len(data.evaluation),
        "num_train_tokens": sum(len(ids) for ids in rows["input_ids"]),
        "dropped": dict(data.dropped),
        "num_classes": len(data.class_names),
        "num_noisy_labels": sum(a != b for a, b in zip(noisy, true, strict=True)),
    }


def _metric(value: float, unit: str, direction: str, **more: Any) -> dict[str, Any]:
    return {"value": value, "unit": unit, "direction": direction, **more}


def check_harness(recipe: TextRecipe) -> None:
    """Find what the recipe's evaluation needs, before anything is trained.

    Raises:
        InputError: MMLU or a task cannot be found, or lm-eval is not installed.
    """
    if recipe.mmlu is None and recipe.harness_tasks is None:
        return
    try:
        from data_agent_lab.lm_eval import load_mmlu, load_tasks
    except ModuleNotFoundError as error:
        if error.name != "lm_eval":
            raise
        raise InputError(
            "--mmlu and --harness-tasks evaluate with lm-eval, which is not installed. Run: pip "
            "install 'data-agent[eval]'"
        ) from error
    if recipe.mmlu is not None:
        load_mmlu(Path(recipe.mmlu))
    if recipe.harness_tasks is not None:
        load_tasks(_names(recipe.harness_tasks))


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def _harness_metrics(trainer: AnyTrainer, recipe: TextRecipe, data: LanguageData) -> dict[str, Any]:
    """What the evaluation harness says of the trained model, where the recipe asks for it."""
    if recipe.mmlu is None and recipe.harness_tasks is None:
        return {}
    from data_agent_lab.lm_eval import evaluate_tasks, load_mmlu, load_tasks

    model, found = trainer.model, {}
    few = min(8, recipe.batch_size)  # prompts of five shots are long
    options: dict[str, Any] = {"limit": recipe.harness_limit, "batch_size": few}
    if recipe.mmlu is not None:
        mmlu = load_mmlu(Path(recipe.mmlu))
        found["mmlu"] = evaluate_tasks(model, data.tokenizer, mmlu, **options)["mmlu/acc"]
    if recipe.harness_tasks is not None:
        tasks = load_tasks(_names(recipe.harness_tasks))
        found |= evaluate_tasks(model, data.tokenizer, tasks, **options)
    return found
