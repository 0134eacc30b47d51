"""The data of a language task: read, tokenised and counted once for all of its runs."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, cast

import datasets
import numpy as np
import torch
from torch import Tensor

from data_agent.errors import InputError
from data_agent_lab.data.image_data import DATA_SEED, HELD_OUT_SHARE, stratified
from data_agent_lab.data.classes import find_column, has_labels, read_labelled
from data_agent_lab.recipes import TextRecipe
from data_agent_lab.data.rows import read_conversations
from data_agent_lab.data.tokenizers import find_tokenizer, make_tokenizer
from data_agent_lab.data.tokens import EMPTY, blocks, completion_tokens, text_tokens
from data_agent_lab.progress import Progress, silent
from data_agent_lab.data.sources import EVAL_SPLITS, open_texts

logger = logging.getLogger(__name__)

_TEXT_NAMES = ("text", "content", "document")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LanguageData:
    """Rows to train and to evaluate on.

    Args:
        tokenizer: of transformers.
        train: "input_ids"; for sft also "completion_mask" (0 or 1 a token), for text-classification
            "labels".
        evaluation: the same columns.
        class_names: one name a class; empty where nothing is classified.
        evaluation_source: where the evaluation rows come from, in words.
        dropped: by reason, how many rows (or tokens) were left out or cut, in both.
    """

    tokenizer: Any
    train: datasets.Dataset
    evaluation: datasets.Dataset
    class_names: tuple[str, ...] = ()
    evaluation_source: str
    dropped: Mapping[str, int]

    @property
    def num_train(self) -> int:
        """Number of training samples."""
        return len(self.train)

    @property
    def num_eval(self) -> int:
        """Number of evaluation samples."""
        return len(self.evaluation)

    def in_words(self) -> str:
        """What there is, and what was left out."""
        tokens = sum(len(ids) for ids in self.train["input_ids"])
        dropped = _in_words(self.dropped)
        return (
            f"{self.num_train} training samples of {tokens} tokens; evaluation on {self.num_eval} "
            f"({self.evaluation_source})" + (f"; {dropped}" if dropped else "")
        )


def _in_words(counts: Mapping[str, int]) -> str:
    return "; ".join(f"{count} {reason}" for reason, count in counts.items() if count)


def load_language(recipe: TextRecipe, progress: Progress = silent) -> LanguageData:
    """The data of a recipe; the same for every method and seed.

    Raises:
        InputError: data that cannot be found or used, or a tokenizer that cannot.
    """
    if recipe.data is None:
        raise InputError(
            f"--task {recipe.task} needs data: name them with --data (a file, a folder, or a name "
            "on the Hugging Face hub)."
        )
    train, evaluation, source = _find_parts(recipe)
    progress("reading", 1, 2)
    counts: Counter[str] = Counter()
    make = {"sft": _instructions, "lm": _texts, "text-classification": _classified}[recipe.kind]
    tokenizer, rows, class_names = make(recipe, train, evaluation, counts)
    progress("reading", 2, 2)
    for part, what in zip(rows, ("training", "evaluation"), strict=True):
        if len(part) == 0:
            raise InputError(
                f"none of the {what} rows can be used: {_in_words(counts)}. Check the columns and "
                "--max-length."
            )
    return LanguageData(
        tokenizer=tokenizer,
        train=rows[0],
        evaluation=rows[1],
        class_names=class_names,
        evaluation_source=source,
        dropped={reason: count for reason, count in counts.items() if count},
    )


_Made = tuple[Any, tuple[datasets.Dataset, datasets.Dataset], tuple[str, ...]]


def _instructions(
    recipe: TextRecipe, train: Any, evaluation: Any, counts: Counter[str]
) -> _Made:
    tokenizer = find_tokenizer(recipe)
    has_template = tokenizer is not None and tokenizer.chat_template is not None
    parts = [
        read_conversations(rows, recipe, has_template=has_template, dropped=counts)
        for rows in (train, evaluation)
    ]
    if tokenizer is None:
        texts = (turn["content"] for messages in parts[0] for turn in messages)
        tokenizer = make_tokenizer(recipe, texts)
    made = [
        datasets.Dataset.from_dict(
            completion_tokens(part, tokenizer, max_length=recipe.max_length, counts=counts)
        )
        for part in parts
    ]
    return tokenizer, (made[0], made[1]), ()


def _texts(recipe: TextRecipe, train: Any, evaluation: Any, counts: Counter[str]) -> _Made:
    parts = [_text_column(rows, recipe) for rows in (train, evaluation)]
    tokenizer = make_tokenizer(recipe, (text for text in parts[0] if text))
    made = [
        datasets.Dataset.from_dict(
            {
                "input_ids": blocks(
                    part,
                    tokenizer,
                    length=recipe.max_length,
                    counts=counts,
                    keep_rest=number == 1,  # the held-out loss is over all tokens
                )
            }
        )
        for number, part in enumerate(parts)
    ]
    return tokenizer, (made[0], made[1]), ()


def _classified(recipe: TextRecipe, train: Any, evaluation: Any, counts: Counter[str]) -> _Made:
    parts = [read_labelled(rows, recipe) for rows in (train, evaluation)]
    names = parts[0].class_names
    if len(names) < 2:
        raise InputError(f"the training data has the class {names} only; two or more are needed.")
    tokenizer = make_tokenizer(recipe, chain.from_iterable(parts[0].texts))
    made: list[datasets.Dataset] = []
    for part, size in zip(parts, (recipe.subset, recipe.eval_subset), strict=True):
        counts[EMPTY] += part.num_empty
        labels = part.numbered(names)
        index = torch.arange(len(labels)) if size is None else stratified(labels, size)
        texts = [part.texts[i] for i in index.tolist()]
        tokens = text_tokens(texts, tokenizer, max_length=recipe.max_length, counts=counts)
        made.append(datasets.Dataset.from_dict({**tokens, "labels": labels[index].tolist()}))
    return tokenizer, (made[0], made[1]), names


def _text_column(rows: datasets.Dataset, recipe: TextRecipe) -> Sequence[str]:
    features = cast("Mapping[str, Any]", rows.features)
    return rows[find_column(features, recipe.text_column, _TEXT_NAMES, "text")]


def _find_parts(recipe: TextRecipe) -> tuple[Any, Any, str]:
    """What to train and to evaluate on, and where the latter comes from in words."""
    assert recipe.data is not None
    splits = open_texts(recipe.data)
    if "train" not in splits:
        raise InputError(
            f"the data has no split 'train', but {', '.join(splits)}. Name the training file "
            "train.jsonl (or .parquet, .txt)."
        )
    train = splits["train"]
    for name in (name for name in EVAL_SPLITS if name in splits):
        if recipe.kind == "text-classification" and not has_labels(splits[name], recipe):
            logger.info("split %r has unlabelled rows; it is not used for evaluation.", name)
            continue
        found = train, splits[name], f"split {name!r}"
        break
    else:
        held, rest = _shuffled(len(train)).tensor_split([_num_held_out(len(train))])
        found = (
            train.select(rest.sort().values.tolist()),
            train.select(held.sort().values.tolist()),
            "rows held out of 'train' (10 %)",
        )
    if recipe.kind == "text-classification":  # whose subsets keep the classes' shares
        return found
    train, evaluation = (
        _subset(rows, size, flag)
        for rows, size, flag in (
            (found[0], recipe.subset, "--subset"),
            (found[1], recipe.eval_subset, "--eval-subset"),
        )
    )
    return train, evaluation, found[2]


def _num_held_out(count: int) -> int:
    if count < 2:
        raise InputError(f"the training data has {count} row(s); two or more are needed.")
    return max(1, int(HELD_OUT_SHARE * count + 0.5))


def _subset(rows: datasets.Dataset, size: int | None, flag: str) -> datasets.Dataset:
    if size is None:
        return rows
    if size > len(rows):
        raise InputError(f"{size} rows were asked for ({flag}), of {len(rows)} there are.")
    return rows.select(_shuffled(len(rows))[:size].sort().values.tolist())


def _shuffled(count: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(DATA_SEED).permutation(count))
