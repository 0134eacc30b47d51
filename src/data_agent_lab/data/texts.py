"""The data of a language task: read, tokenised and counted once for all of its runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any

import datasets
import numpy as np
import torch
from torch import Tensor

from data_agent.errors import InputError
from data_agent.trusted import warn_of_overlap
from data_agent_lab.data.image_data import HELD_OUT_SHARE, corrupt_labels, stratified, trusted_rows
from data_agent_lab.data.labels import find_column, has_labels, read_labels
from data_agent_lab.data.mixtures import FOREIGN, foreign_rows, mixed, num_own, shuffled
from data_agent_lab.data.origins import NO_ROW
from data_agent_lab.data.sources import choose_splits, only_split, open_rows
from data_agent_lab.data.tokenizers import find_tokenizer, train_tokenizer
from data_agent_lab.data.tokens import (
    EMPTY,
    ROW,
    blocks,
    completion_tokens,
    read_conversations,
    text_tokens,
)
from data_agent_lab.progress import Progress, silent
from data_agent_lab.recipes import TextRecipe

_ROWS = ("the training rows", "the evaluation rows", "the trusted rows")
_DOCUMENT_NAMES = ("text", "content", "document")
_TEXT_NAMES = ("text", "sentence", "content", "review", "comment_text", "tweet")
_PAIR_NAMES = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("text1", "text2"),
)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LanguageData:
    """Rows to train and to evaluate on.

    They have "input_ids", of pairs of texts "token_type_ids", for sft "completion_mask" (0 or 1 a
    token), for text-classification "labels".
    """

    tokenizer: Any  # of transformers
    train: datasets.Dataset
    evaluation: datasets.Dataset
    trusted: datasets.Dataset | None = None  # further rows to train on, which are trusted
    foreign: Tensor | None = None  # bool [M]: training rows of other sources; None for none
    class_names: tuple[str, ...] = ()  # empty where nothing is classified
    evaluation_source: str  # where the evaluation rows come from, in words
    rows: Tensor | None = None  # int64 [N], of the training data, or NO_ROW; None of blocks
    dropped: Mapping[str, int]  # by reason, how many rows (or tokens) were left out or cut, in both

    def at(self, rows: Any) -> LanguageData:
        """The data with these training rows, int64 `[M]`, and the trusted ones, which come last."""
        size = len(self.train)
        rows = torch.as_tensor(rows)[rows < size]
        foreign = None if self.foreign is None else self.foreign[rows]
        own = None if self.rows is None else torch.cat([self.rows[rows], self.rows[size:]])
        return replace(self, train=self.train.select(rows), foreign=foreign, rows=own)

    @property
    def samples(self) -> datasets.Dataset:
        """The training samples as they are numbered: the trusted ones come last."""
        if self.trusted is None:
            return self.train
        return datasets.concatenate_datasets([self.train, self.trusted])

    def labels_of_run(self, recipe: TextRecipe, *, seed: int) -> Tensor:
        """int64 `[N]`: the classes that a run trains on, its own wrong ones among them."""
        num_own, labels = len(self.train), torch.tensor(self.samples["labels"][:])
        own = corrupt_labels(
            labels[:num_own], recipe.label_noise, num_classes=len(self.class_names), seed=seed
        )
        return torch.cat([own, labels[num_own:]])

    @property
    def num_train(self) -> int:
        """Number of training samples, the trusted ones among them."""
        return len(self.train) + self.num_trusted

    @property
    def num_trusted(self) -> int:
        """Number of training samples that are trusted."""
        return 0 if self.trusted is None else len(self.trusted)

    @property
    def num_eval(self) -> int:
        """Number of evaluation samples."""
        return len(self.evaluation)

    def in_words(self) -> str:
        """What there is, and what was left out."""
        tokens = sum(map(len, self.samples["input_ids"]))
        dropped = (f"{count} {reason}" for reason, count in self.dropped.items())
        foreign = () if self.foreign is None else (f"{int(self.foreign.sum())} of them foreign",)
        return "; ".join(
            [
                f"{self.num_train} training samples of {tokens} tokens",
                *foreign,
                f"evaluation on {self.num_eval} ({self.evaluation_source})",
                *dropped,
            ]
        )


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
    parts, own, source = _find_parts(recipe.data, recipe)
    progress("reading", 1, 2)
    counts: Counter[str] = Counter()
    make = {"sft": _instructions, "lm": _documents, "text-classification": _classified}[recipe.kind]
    tokenizer, columns, class_names = make(recipe, parts, counts)
    progress("reading", 2, 2)
    train, *others = map(datasets.Dataset.from_dict, columns)
    evaluation, *given = map(_without_marks, others)
    if given:
        trusted = given[0]
        warn_of_overlap(trusted, evaluation)
    else:
        train, trusted = _split_off(train, recipe.trusted_rows)
    data = LanguageData(
        tokenizer=tokenizer,
        train=_without_marks(train),
        evaluation=evaluation,
        trusted=None if trusted is None else _without_marks(trusted),
        rows=_rows_of(train, trusted, own),
        foreign=_foreign_marks(train) if FOREIGN in train.column_names else None,
        class_names=class_names,
        evaluation_source=source,
        dropped=+counts,  # those above zero
    )
    for number, what in ((data.num_train, "training"), (data.num_eval, "evaluation")):
        if number == 0:
            raise InputError(
                f"none of the {what} rows can be used: {data.in_words()}. Check the columns and "
                "--max-length."
            )
    return data


_Parts = Sequence[datasets.Dataset]  # to train on, to evaluate on, and if there are some trusted
_Made = tuple[Any, list[dict[str, Any]], tuple[str, ...]]  # tokenizer, columns of each, classes


def _rows_of(
    train: datasets.Dataset, trusted: datasets.Dataset | None, own: Sequence[int]
) -> Tensor | None:
    """Which rows of the training data samples are, int64 `[N]`; None where they are blocks.

    `own` are the rows that were read, in which the column `ROW` says a sample's place. Trusted rows
    of a data set of their own have no such column.
    """
    if ROW not in train.column_names:
        return None
    places = train[ROW][:]
    if trusted is not None:
        is_split_off = ROW in trusted.column_names
        places += trusted[ROW][:] if is_split_off else [NO_ROW] * len(trusted)
    return torch.tensor([place if place == NO_ROW else own[place] for place in places])


def _split_off(
    train: datasets.Dataset, count: int
) -> tuple[datasets.Dataset, datasets.Dataset | None]:
    """Of the training rows all but the trusted ones, and these: each class alike if there are some.

    A foreign row is never trusted.

    Raises:
        InputError: they are more than half of the rows.
    """
    if count == 0:
        return train, None
    is_labelled = "labels" in train.column_names
    labels = torch.tensor(train["labels"]) if is_labelled else -_foreign_marks(train).long()
    rows = trusted_rows(labels, count)
    others = torch.ones(len(train), dtype=torch.bool)
    others[rows] = False
    return train.select(others.nonzero().flatten().tolist()), train.select(rows.tolist())


def _foreign_marks(rows: datasets.Dataset) -> Tensor:
    """Bool `[N]`: which rows are of another source."""
    if FOREIGN not in rows.column_names:
        return torch.zeros(len(rows), dtype=torch.bool)
    return torch.tensor(rows[FOREIGN], dtype=torch.bool)


def _without_marks(rows: datasets.Dataset) -> datasets.Dataset:
    """The rows as they are trained on."""
    return rows.remove_columns([name for name in (FOREIGN, ROW) if name in rows.column_names])


def _find_parts(data: str, recipe: TextRecipe) -> tuple[_Parts, Sequence[int], str]:
    """The parts, which rows of the data are trained on, and where the evaluation rows are from."""
    classifies = recipe.kind == "text-classification"
    splits = open_rows(data)
    train, name = choose_splits(
        splits, lambda rows: not classifies or has_labels(rows, recipe.label_column)
    )
    rows = np.arange(len(train))
    if name is not None:
        evaluation, source = splits[name], f"split {name!r}"
    else:
        order, source = shuffled(train), "rows held out of 'train' (10 %)"
        num_held = max(1, int(HELD_OUT_SHARE * len(train) + 0.5))
        evaluation = train.select(np.sort(order[:num_held]))
        rows = np.sort(order[num_held:])
        train = train.select(rows)
    trusted = []
    if recipe.trusted is not None:
        trusted = [only_split(open_rows(recipe.trusted, flag="--trusted"), "--trusted")]
    if not classifies:  # subsets of classes keep their shares
        chosen = _subset(train, num_own(recipe), "--subset")
        train, rows = train.select(chosen), rows[chosen]
        evaluation = evaluation.select(_subset(evaluation, recipe.eval_subset, "--eval-subset"))
    return (train, evaluation, *trusted), rows.tolist(), source


def _subset(rows: datasets.Dataset, size: int | None, flag: str) -> np.ndarray:
    """Places of `size` rows, ascending; None takes all."""
    if size is None:
        return np.arange(len(rows))
    if size > len(rows):
        raise InputError(f"{size} rows were asked for ({flag}), of {len(rows)} there are.")
    return np.sort(shuffled(rows)[:size])


def _instructions(recipe: TextRecipe, parts: _Parts, counts: Counter[str]) -> _Made:
    tokenizer = find_tokenizer(recipe)
    has_template = tokenizer is not None and tokenizer.chat_template is not None
    converse = partial(read_conversations, has_template=has_template, dropped=counts)
    read = [converse(rows, recipe) for rows in parts]
    usual = replace(recipe, prompt_column=None, completion_column=None)
    foreign = [converse(rows, usual) for rows in foreign_rows(recipe, len(parts[0]))]
    if tokenizer is None:
        every = chain.from_iterable(part.values() for part in (read[0], *foreign))
        texts = (turn["content"] for messages in every for turn in messages)
        tokenizer = train_tokenizer(texts, vocab_size=recipe.vocab_size)
    tokens = partial(
        completion_tokens, tokenizer=tokenizer, max_length=recipe.max_length, counts=counts
    )
    own, *others = map(tokens, read)
    return tokenizer, [mixed(own, [tokens(part) for part in foreign]), *others], ()


def _documents(recipe: TextRecipe, parts: _Parts, counts: Counter[str]) -> _Made:
    find = partial(find_column, usual=_DOCUMENT_NAMES, fits=_is_text, what="text")
    texts = [rows[find(rows, recipe.text_column)][:] for rows in parts]
    tokenizer = find_tokenizer(recipe) or train_tokenizer(
        filter(None, texts[0]), vocab_size=recipe.vocab_size
    )
    cut = partial(blocks, tokenizer=tokenizer, length=recipe.max_length, counts=counts)
    # The held-out loss is over all tokens.
    columns = [cut(part, keep_rest=place == 1) for place, part in enumerate(texts)]
    return tokenizer, [{"input_ids": ids} for ids in columns], ()


def _classified(recipe: TextRecipe, parts: _Parts, counts: Counter[str]) -> _Made:
    names: tuple[str, ...] = ()
    read: list[tuple[list[tuple[str, ...]], Tensor, Tensor]] = []
    for rows, split in zip(parts, _ROWS, strict=False):
        labels = read_labels(rows, recipe.label_column, source=split, class_names=names)
        names = labels.class_names
        texts = list(zip(*(rows[name] for name in _text_columns(rows, recipe)), strict=True))
        kept = [i for i, row in enumerate(texts) if all(t and str(t).strip() for t in row)]
        counts[EMPTY] += len(texts) - len(kept)
        read.append(([texts[i] for i in kept], labels.numbers[kept], torch.tensor(kept)))
    if len(names) < 2:
        raise InputError(f"the training data has the class {names} only; two or more are needed.")
    tokenizer = find_tokenizer(recipe) or train_tokenizer(
        chain.from_iterable(read[0][0]), vocab_size=recipe.vocab_size, frames=True
    )
    columns: list[dict[str, Any]] = []
    sizes = (recipe.subset, recipe.eval_subset, None)
    for (texts, labels, places), size in zip(read, sizes, strict=False):
        index = torch.arange(len(labels)) if size is None else stratified(labels, size)
        chosen = [texts[i] for i in index.tolist()]
        tokens = text_tokens(chosen, tokenizer, max_length=recipe.max_length, counts=counts)
        columns.append({**tokens, "labels": labels[index].tolist(), ROW: places[index].tolist()})
    return tokenizer, columns, names


def _text_columns(rows: datasets.Dataset, recipe: TextRecipe) -> tuple[str, ...]:
    """One column of texts, or two: those that the recipe names (ONE,OTHER), or usual ones."""
    wanted, columns = recipe.text_column, rows.column_names
    find = partial(find_column, rows, fits=_is_text, what="text")
    if wanted is not None and wanted not in columns and wanted.count(",") == 1:
        return tuple(find(name.strip(), usual=()) for name in wanted.split(","))
    pairs = [names for names in _PAIR_NAMES if set(names) <= set(columns)]
    if wanted is None and pairs:
        return pairs[0]
    return (find(wanted, usual=_TEXT_NAMES),)


def _is_text(kind: Any) -> bool:
    return isinstance(kind, datasets.Value) and kind.dtype in ("string", "large_string")
