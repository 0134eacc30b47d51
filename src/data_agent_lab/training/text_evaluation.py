"""How good a language model is on rows that it has not seen, and on tasks of a harness."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DataCollatorWithPadding
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from data_agent.errors import InputError
from data_agent.losses import IGNORE_INDEX, next_tokens
from data_agent.runtime import distributed
from data_agent_lab.data.texts import LanguageData
from data_agent_lab.recipes import TextRecipe
from data_agent_lab.training.engine import measure

_MAX_LOGITS = 2**25  # of a batch: 128 MiB in float32
_MAX_ROWS = 64


def evaluate(model: Any, data: LanguageData, *, autocast: torch.autocast) -> dict[str, Any]:
    """As `measure`, on all evaluation rows, of which each rank takes its part.

    Args:
        model: of transformers; it is left in the mode it was in.
        data: the evaluation rows. Of a language model the loss is the mean over all tokens that
            count (for sft those of completions), of a classifier the mean over rows.
        autocast: the context of forward passes.
    """
    predictions = _predictions(model, data, autocast)
    return measure(model, predictions, num_classes=len(data.class_names))


def _predictions(
    model: Any, data: LanguageData, autocast: torch.autocast
) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits and labels by batch, of rows or tokens; rows of similar length are a batch."""
    rows, tokenizer = data.evaluation, data.tokenizer
    lengths = torch.tensor([len(ids) for ids in rows["input_ids"]])
    order = lengths.argsort(stable=True, descending=True)
    if data.class_names:
        collate, width = DataCollatorWithPadding(tokenizer), len(data.class_names)
    else:
        collate = DataCollatorForLanguageModeling(tokenizer.pad_token_id)
        width = int(model.config.get_text_config().vocab_size) * int(lengths.max())
    size = max(1, min(_MAX_ROWS, _MAX_LOGITS // width))
    rank, world = distributed.rank(), distributed.world_size()
    for index in list(order.split(size))[rank::world]:
        batch: Any = collate([_with_labels(rows[i]) for i in index.tolist()])
        inputs = {name: tensor.to(model.device) for name, tensor in batch.items()}
        labels = inputs.pop("labels")
        with autocast:
            logits: Tensor = model(**inputs).logits
        if not data.class_names:
            labels = next_tokens(labels)
        yield logits.float().flatten(0, -2), labels.flatten()


def _with_labels(row: dict[str, Any]) -> dict[str, Any]:
    """A row whose labels are its class, or its tokens where they count."""
    mask = row.pop("completion_mask", None)
    if mask is None:
        return row
    labels = np.where(mask, row["input_ids"], IGNORE_INDEX)
    return {**row, "labels": labels.tolist()}


def load_harness(recipe: TextRecipe) -> dict[str, Any]:
    """What the recipe has the evaluation harness ask: nothing, "mmlu", other "tasks", or both.

    Raises:
        InputError: MMLU or a task cannot be found, or lm-eval is not installed.
    """
    if recipe.mmlu is None and recipe.harness_tasks is None:
        return {}
    try:
        from data_agent_lab.lm_eval import load_mmlu, load_tasks
    except ModuleNotFoundError as error:
        if error.name != "lm_eval":
            raise
        raise InputError(
            "--mmlu and --harness-tasks evaluate with lm-eval, which is not installed. In a "
            "checkout of data_agent: pip install '.[eval]'"
        ) from error
    loaded: dict[str, Any] = {}
    if recipe.mmlu is not None:
        loaded["mmlu"] = load_mmlu(Path(recipe.mmlu))
    if recipe.harness_tasks is not None:
        loaded["tasks"] = load_tasks([name.strip() for name in recipe.harness_tasks.split(",")])
    return loaded


def harness_metrics(model: Any, tokenizer: Any, recipe: TextRecipe) -> dict[str, Any]:
    """What the evaluation harness says of a trained model, by metric; see `RunResult`."""
    metrics: dict[str, Any] = {}
    for what, tasks in load_harness(recipe).items():
        from data_agent_lab.lm_eval import evaluate_tasks

        few = min(8, recipe.batch_size)  # prompts of five shots are long
        found = evaluate_tasks(model, tokenizer, tasks, limit=recipe.harness_limit, batch_size=few)
        metrics |= {"mmlu": found["mmlu/acc"]} if what == "mmlu" else found
    return metrics
