"""From texts to tokens: completions that count, blocks of plain text, texts with a class."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

from jinja2 import TemplateError

from data_agent.errors import InputError
from data_agent_lab.data.rows import Conversation

CUT = "cut at --max-length, kept"
CUT_AWAY = "without a token of the completion within --max-length"
EMPTY = "empty texts"
REST = "tokens behind the last whole block"
CONTEXT = "earlier answers, which are context only"

_MARKS_ANSWERS = re.compile(r"\{%-?\s*generation\s*-?%\}")
_PLAIN_TURN = {"system": "{}\n\n", "user": "### User:\n{}\n\n", "assistant": "### Assistant:\n{}"}


def completion_tokens(
    conversations: Sequence[Conversation],
    tokenizer: Any,
    *,
    max_length: int,
    counts: Counter[str],
) -> dict[str, list[list[int]]]:
    """Tokens of conversations, and which of them are the answer to learn.

    As TRL prepares prompts and completions: the tokens behind the common beginning of the prompt
    alone and of both together count, an end-of-sequence token is part of the completion. With the
    tokenizer's chat template, if it has one; where that marks what the assistant says
    (`{% generation %}`) all answers count, otherwise the last one. Without a template a single
    question is taken as it is, several turns are headed `### User:` and `### Assistant:`.

    Args:
        conversations: each ends with the assistant's message.
        tokenizer: of transformers.
        max_length: longer rows are cut at their end.
        counts: rows that are cut or left out are counted here.

    Returns:
        "input_ids" and "completion_mask" (0 or 1 a token), one list a row that is left.
    """
    found: dict[str, list[list[int]]] = {"input_ids": [], "completion_mask": []}
    for ids, mask in _tokens_and_masks(conversations, tokenizer, counts):
        if not any(mask[1:max_length]):  # the first token is nobody's prediction
            counts[CUT_AWAY] += 1
            continue
        counts[CUT] += len(ids) > max_length
        found["input_ids"].append(ids[:max_length])
        found["completion_mask"].append(mask[:max_length])
    return found


def blocks(
    texts: Sequence[str],
    tokenizer: Any,
    *,
    length: int,
    counts: Counter[str],
    keep_rest: bool,
) -> list[list[int]]:
    """Texts joined, with an end-of-sequence token behind each, and cut into blocks.

    Args:
        texts: documents.
        tokenizer: of transformers.
        length: tokens of a block.
        counts: empty texts, and tokens that are left out, are counted here.
        keep_rest: keep a last, shorter block of two tokens or more.

    Raises:
        InputError: the texts have fewer tokens than one block.
    """
    full = [text for text in texts if text and text.strip()]
    counts[EMPTY] += len(texts) - len(full)
    ids: list[list[int]] = tokenizer(full, add_special_tokens=False)["input_ids"] if full else []
    stream = list(chain.from_iterable((*row, tokenizer.eos_token_id) for row in ids))
    rows = [stream[start : start + length] for start in range(0, len(stream), length)]
    if rows and len(rows[-1]) < length and not (keep_rest and len(rows[-1]) > 1):
        counts[REST] += len(rows.pop())
    if not rows:
        raise InputError(
            f"the texts have {len(stream)} tokens, less than one block of --max-length {length}. "
            "Give more text, or a smaller --max-length."
        )
    return rows


def text_tokens(
    texts: Sequence[tuple[str, ...]], tokenizer: Any, *, max_length: int, counts: Counter[str]
) -> dict[str, list[list[int]]]:
    """Tokens of texts to classify, with the tokenizer's special tokens; longer ones are cut.

    Args:
        texts: one text a row, or two, of which a tokenizer makes a pair.
        tokenizer: of transformers.
        max_length: of a pair, the longer text is cut first.
        counts: rows that are cut are counted here.

    Returns:
        "input_ids"; of pairs also "token_type_ids" where the tokenizer has them.
    """
    columns = [list(column) for column in zip(*texts, strict=True)]
    names = [n for n in ("input_ids", "token_type_ids") if len(columns) == 2 or n == "input_ids"]
    found = tokenizer(*columns) if columns else {"input_ids": []}
    rows: dict[str, list[list[int]]] = {name: found[name] for name in names if name in found}
    long = [i for i, ids in enumerate(rows["input_ids"]) if len(ids) > max_length]
    counts[CUT] += len(long)
    for i in long:  # anew, since special tokens stand at the end as well
        cut = tokenizer(*texts[i], truncation=True, max_length=max_length)
        for name, column in rows.items():
            column[i] = cut[name]
    return rows


def _tokens_and_masks(
    conversations: Sequence[Conversation], tokenizer: Any, counts: Counter[str]
) -> Iterator[tuple[list[int], list[int]]]:
    template = tokenizer.chat_template
    if template is not None and _MARKS_ANSWERS.search(template):
        for messages in conversations:
            found = _templated(messages, tokenizer, return_assistant_tokens_mask=True)
            yield list(found["input_ids"]), list(found["assistant_masks"])
        return
    for messages in conversations:
        counts[CONTEXT] += sum(turn["role"] == "assistant" for turn in messages[:-1])
    if template is not None:
        pairs = (_by_template(messages, tokenizer) for messages in conversations)
    else:
        pairs = _plainly(conversations, tokenizer)
    for prompt, whole in pairs:
        start = _common(prompt, whole)
        yield whole, [0] * start + [1] * (len(whole) - start)


def _by_template(messages: Conversation, tokenizer: Any) -> tuple[list[int], list[int]]:
    prompt = _templated(messages[:-1], tokenizer, add_generation_prompt=True)
    return list(prompt["input_ids"]), list(_templated(messages, tokenizer)["input_ids"])


def _templated(messages: Conversation, tokenizer: Any, **options: Any) -> Any:
    try:
        return tokenizer.apply_chat_template(messages, return_dict=True, **options)
    except TemplateError as error:
        roles = ", ".join(turn["role"] for turn in messages)
        raise InputError(
            f"the chat template of {tokenizer.name_or_path!r} refuses a conversation of the turns "
            f"{roles} (its first words: {messages[0]['content'][:60]!r}): {error}. Remove or merge "
            "such turns, or take another template (--tokenizer)."
        ) from error


def _plainly(
    conversations: Sequence[Conversation], tokenizer: Any
) -> Iterator[tuple[list[int], list[int]]]:
    """Prompt and whole of each, tokenised all at once."""
    if not conversations:
        return
    prompts = [_plain_prompt(messages) for messages in conversations]
    end: str = tokenizer.eos_token
    answers = [messages[-1]["content"] for messages in conversations]
    wholes = [
        prompt + (answer if answer.endswith(end) else answer + end)
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    yield from zip(tokenizer(prompts)["input_ids"], tokenizer(wholes)["input_ids"], strict=True)


def _plain_prompt(messages: Conversation) -> str:
    if len(messages) == 2 and messages[0]["role"] == "user":
        return messages[0]["content"]
    turns = [_PLAIN_TURN[turn["role"]].format(turn["content"]) for turn in messages[:-1]]
    return "".join(
        turn + ("\n\n" if message["role"] == "assistant" else "")
        for turn, message in zip(turns, messages, strict=False)
    ) + _PLAIN_TURN["assistant"].format("")


def _common(prompt: Sequence[int], whole: Sequence[int]) -> int:
    """Length of the common beginning."""
    for place, (one, other) in enumerate(zip(prompt, whole, strict=False)):
        if one != other:
            return place
    return min(len(prompt), len(whole))
