"""How good a language model is on rows that it has not seen."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from data_agent.losses import IGNORE_INDEX, next_tokens
from data_agent.runtime import distributed
from data_agent_lab.data.texts import LanguageData
from data_agent_lab.training.ranks import added_up

_MAX_LOGITS = 2**25  # of a batch: 128 MiB in float32
_MAX_ROWS = 64


@torch.no_grad()
def evaluate(model: Any, data: LanguageData, *, autocast: torch.autocast) -> dict[str, float]:
    """Losses on all evaluation rows; on several ranks a collective call, each takes its part.

    Args:
        model: of transformers; it is left in the mode it was in.
        data: the evaluation rows. Of a language model the loss is the mean over all tokens that
            count (for sft those of completions), of a classifier the mean over rows.
        autocast: the context of forward passes.

    Returns:
        "loss" in nats; of a language model "perplexity", of a classifier "accuracy" in percent.
    """
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    is_classifier = len(data.class_names) > 0
    loss, num_correct, count = 0.0, 0.0, 0.0
    try:
        for batch in _batches(data, model):
            inputs = {name: tensor.to(device) for name, tensor in batch.items()}
            labels = inputs.pop("labels")
            with autocast:
                logits: Tensor = model(**inputs).logits
            if not is_classifier:
                labels = next_tokens(labels)
            logits, labels = logits.float().flatten(0, -2), labels.flatten()
            loss += float(F.cross_entropy(logits, labels, reduction="sum"))
            num_correct += float((logits.argmax(-1) == labels).sum())
            count += float((labels != IGNORE_INDEX).sum())
    finally:
        model.train(was_training)
    loss, num_correct, count = added_up(loss, num_correct, count)
    if is_classifier:
        return {"loss": loss / count, "accuracy": 100 * num_correct / count}
    return {"loss": loss / count, "perplexity": _exp(loss / count)}


def _exp(loss: float) -> float:
    """Perplexity; infinite where the loss is beyond what a float can hold."""
    return math.exp(loss) if loss < 700 else math.inf


def _batches(data: LanguageData, model: Any) -> Iterator[dict[str, Tensor]]:
    """This rank's batches, of rows of similar length: input_ids, attention_mask and labels."""
    rows = data.evaluation
    ids: list[list[int]] = rows["input_ids"]
    lengths = torch.tensor([len(row) for row in ids])
    order = lengths.argsort(stable=True, descending=True)
    width = len(data.class_names) or int(model.config.get_text_config().vocab_size)
    per_row = width if data.class_names else width * int(lengths.max())
    size = max(1, min(_MAX_ROWS, _MAX_LOGITS // per_row))
    rank, world = distributed.rank(), distributed.world_size()
    labels = _labels(data)
    types = rows["token_type_ids"][:] if "token_type_ids" in rows.column_names else None
    for index in list(order.split(size))[rank::world]:
        tokens = [torch.tensor(ids[i]) for i in index.tolist()]
        padding = data.tokenizer.pad_token_id or 0
        batch = {
            "input_ids": pad_sequence(tokens, batch_first=True, padding_value=padding),
            "attention_mask": pad_sequence([torch.ones_like(row) for row in tokens], True),
        }
        if types is not None:
            kinds = [torch.tensor(types[i]) for i in index.tolist()]
            batch["token_type_ids"] = pad_sequence(kinds, batch_first=True)
        targets = [labels[i] for i in index.tolist()]
        if data.class_names:
            batch["labels"] = torch.stack(targets)
        else:
            batch["labels"] = pad_sequence(targets, True, IGNORE_INDEX)
        yield batch


def _labels(data: LanguageData) -> list[Tensor]:
    """Of each row its class, or its tokens where they count, [L]."""
    rows = data.evaluation
    if data.class_names:
        return list(torch.tensor(rows["labels"]).unbind())
    ids = [torch.tensor(row) for row in rows["input_ids"]]
    if "completion_mask" not in rows.column_names:
        return ids
    masks = [torch.tensor(row, dtype=torch.bool) for row in rows["completion_mask"]]
    return [row.masked_fill(~mask, IGNORE_INDEX) for row, mask in zip(ids, masks, strict=True)]
