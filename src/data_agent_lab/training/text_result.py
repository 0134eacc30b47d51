"""What a language run reached and cost, as its folder keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_agent.errors import InputError
from data_agent_lab.data.texts import LanguageData
from data_agent_lab.recipes import RunConfig, TextRecipe
from data_agent_lab.training.ranks import added_up
from data_agent_lab.training.text_trainers import LabSFTTrainer, LabTrainer, training_rows

AnyTrainer = LabTrainer | LabSFTTrainer


def metric_of(recipe: TextRecipe) -> str:
    """The metric that runs of a recipe are compared by."""
    return "accuracy" if recipe.kind == "text-classification" else "loss"


def model_of(trainer: AnyTrainer) -> Any:
    """The model that a Trainer trains, without what shares it among ranks."""
    return trainer.model


def cost_of(trainer: AnyTrainer) -> dict[str, int]:
    """Samples and tokens over all ranks."""
    ledger = trainer.ledger
    names = ("num_forward", "num_backward", "num_forward_tokens", "num_backward_tokens")
    sums = added_up(*(float(getattr(ledger, name)) for name in names))
    return {name: int(value) for name, value in zip(names, sums, strict=True)}


def make_result(
    trainer: AnyTrainer,
    config: RunConfig[TextRecipe],
    data: LanguageData,
    last: Mapping[str, Any],
) -> dict[str, Any]:
    """What a finished run reached and cost; asks the evaluation harness where the recipe does.

    Args:
        trainer: at its end.
        config: the run.
        data: of its recipe.
        last: its last line of metrics.
    """
    recipe, selector = config.recipe, trainer.selector
    assert selector is not None
    rows, ledger = trainer.rows, trainer.ledger
    labels = training_rows(config, data) if recipe.label_noise else None
    noisy = 0 if labels is None else _num_different(labels["labels"], data.train["labels"])
    weights = list(model_of(trainer).parameters())
    num_tokens = sum(len(ids) for ids in rows["input_ids"])
    is_accuracy = metric_of(recipe) == "accuracy"
    further = {} if is_accuracy else {"perplexity": _metric(last["perplexity"], "", "lower")}
    return {
        "status": "finished",
        "metric": metric_of(recipe),
        "unit": "%" if is_accuracy else "nats",
        "direction": "higher" if is_accuracy else "lower",
        "value": last["value"],
        "further_metrics": {**further, **_harness_metrics(trainer, recipe, data)},
        "eval_loss": last["loss"],
        "train_loss": last["train_loss"],
        "evaluation": data.evaluation_source,
        "num_train_samples": len(rows),
        "num_eval_samples": len(data.evaluation),
        "num_train_tokens": num_tokens,
        "dropped": dict(data.dropped),
        "num_classes": len(data.class_names),
        "num_noisy_labels": noisy,
        "num_parameters": sum(weight.numel() for weight in weights),
        "num_trained_parameters": sum(w.numel() for w in weights if w.requires_grad),
        "num_forward": last["num_forward"],
        "num_backward": last["num_backward"],
        "num_steps": last["step"],
        "cost": (last["num_forward"] + 2 * last["num_backward"]) / (3 * len(rows) * recipe.epochs),
        "token_cost": (last["num_forward_tokens"] + 2 * last["num_backward_tokens"])
        / (3 * num_tokens * recipe.epochs),
        "train_seconds": ledger.train_seconds,
        "train_cpu_seconds": ledger.train_cpu_seconds,
        "eval_seconds": ledger.eval_seconds,
        "overhead_seconds": selector.overhead_seconds,
        "schedule": selector.schedule.kind,
        "device": str(trainer.args.device),
    }


def _num_different(one: list[int], other: list[int]) -> int:
    return sum(a != b for a, b in zip(one, other, strict=True))


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

    model, found = model_of(trainer), {}
    few = min(8, recipe.batch_size)  # prompts of five shots are long
    options: dict[str, Any] = {"limit": recipe.harness_limit, "batch_size": few}
    if recipe.mmlu is not None:
        mmlu = load_mmlu(Path(recipe.mmlu))
        found["mmlu"] = evaluate_tasks(model, data.tokenizer, mmlu, **options)["mmlu/acc"]
    if recipe.harness_tasks is not None:
        tasks = load_tasks(_names(recipe.harness_tasks))
        found |= evaluate_tasks(model, data.tokenizer, tasks, **options)
    return found
