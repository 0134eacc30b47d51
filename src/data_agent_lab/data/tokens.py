"""From rows to tokens: instructions and their completions, blocks of text, texts with a class."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, cast

import datasets
from jinja2 import TemplateError
from trl.data_utils import common_prefix_length

from data_agent.errors import InputError
from data_agent_lab.recipes import TextRecipe

Conversation = list[Mapping[str, str]]
"""Turns, each with "role" (system, user, assistant) and "content"."""

ROW = "row"
"""Column of the rows that samples were made of, until the data are made."""

NO_COMPLETION = "without a completion"
BEHIND = "turns behind the last answer"

# The prompt of Stanford Alpaca (github.com/tatsu-lab/stanford_alpaca), with and without an input.
_ALPACA = (
    "Below is an instruction that describes a task{context}. Write a response that appropriately "
    "completes the request.\n\n### Instruction:\n{instruction}\n\n{input}### Response:\n"
)
_CONTEXT = ", paired with an input that provides further context"
_ROLES = {
    **{"system": "system", "user": "user", "assistant": "assistant"},
    **{"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant"},
}
_TURN_KEYS = (("role", "content"), ("from", "value"))
_LAYOUTS = (
    ("messages",),
    ("conversations",),
    ("prompt", "completion"),
    ("prompt", "response"),
    ("instruction", "output"),
    ("instruction", "response"),
    ("question", "answer"),
)

CUT = "cut at --max-length, kept"
CUT_AWAY = "without a token of the completion within --max-length"
EMPTY = "empty texts"
REST = "tokens behind the last whole block"
CONTEXT = "earlier answers, which are context only"

_MARKS_ANSWERS = re.compile(r"\{%-?\s*generation\s*-?%\}")
# Of tokenizers without a template of their own: a single question is taken as it is.
_PLAIN = r"""
{%- set asked = messages if add_generation_prompt else messages[:-1] -%}
{%- if asked | length == 1 and asked[0].role == "user" -%}
    {{- asked[0].content -}}
{%- else -%}
    {%- for turn in asked -%}
        {{- {"user": "### User:\n", "assistant": "### Assistant:\n"}[turn.role] or "" -}}
        {{- turn.content + "\n\n" -}}
    {%- endfor -%}
    {{- "### Assistant:\n" -}}
{%- endif -%}
{%- if not add_generation_prompt -%}
    {%- set answer = messages[-1].content -%}
    {{- answer if answer.endswith(eos_token) else answer + eos_token -}}
{%- endif -%}
"""


def read_conversations(
    rows: datasets.Dataset, recipe: TextRecipe, *, has_template: bool, dropped: Counter[str]
) -> dict[int, Conversation]:
    """By row a conversation that ends with the answer to learn.

    Layouts are told by the names of columns; an instruction may have an input or a context beside
    it. Others are named by the recipe's `prompt_column` and `completion_column`. Without a chat
    template (`has_template`) an instruction is put into the prompt of Alpaca. Rows and turns that
    cannot be learned are left out and counted in `dropped`.

    Raises:
        InputError: no layout fits the columns, or several do; a cell holds no text.
    """
    first, *others = _columns(rows.column_names, recipe)
    is_instruction = first == "instruction" and recipe.prompt_column is None
    conversations: dict[int, Conversation] = {}
    for number, row in enumerate(cast("Sequence[Mapping[str, Any]]", rows)):
        if not others:
            turns = _messages(row[first], first)
        else:
            asked = _instruction(row, has_template) if is_instruction else row[first]
            turns = _turns(asked, first, "user") + _turns(row[others[0]], others[0], "assistant")
        said = [i for i, turn in enumerate(turns) if turn["role"] == "assistant"]
        answers = [i for i in said if turns[i]["content"].strip()]
        if not answers:
            dropped[NO_COMPLETION] += 1
            continue
        last = answers[-1]
        dropped[BEHIND] += len(turns) - 1 - last
        if all(turn["role"] == "system" for turn in turns[:last]):  # templates want a question
            turns.insert(last, {"role": "user", "content": ""})
            last += 1
        conversations[number] = turns[: last + 1]
    return conversations


def _columns(columns: Sequence[str], recipe: TextRecipe) -> tuple[str, ...]:
    """The column with whole conversations, or those with what is asked and what is answered."""
    named = tuple(name for name in (recipe.prompt_column, recipe.completion_column) if name)
    if len(named) == 1:
        raise InputError("--prompt-column and --completion-column go together; give both or none.")
    if missing := [name for name in named if name not in columns]:
        raise InputError(f"there is no column {missing[0]!r}; the data has {', '.join(columns)}.")
    if named:
        return named
    fitting = [names for names in _LAYOUTS if set(names) <= set(columns)]
    if len(fitting) != 1:
        known = "; ".join(", ".join(names) for names in fitting or _LAYOUTS)
        problem = "fit several layouts" if fitting else "fit none of the layouts"
        raise InputError(
            f"the data's columns ({', '.join(columns)}) {problem} we know: {known}. Name two "
            "columns with --prompt-column and --completion-column, or remove those not meant."
        )
    return fitting[0]


def _instruction(row: Mapping[str, Any], has_template: bool) -> str:
    instruction = _text(row["instruction"], "instruction").strip()
    column = "input" if "input" in row else "context"
    context = _text(row.get(column), column).strip()
    if has_template:
        return "\n\n".join(text for text in (instruction, context) if text)
    return _ALPACA.format(
        context=_CONTEXT if context else "",
        instruction=instruction,
        input=f"### Input:\n{context}\n\n" if context else "",
    )


def _turns(cell: Any, column: str, role: str) -> Conversation:
    """A cell that is a text or messages."""
    if isinstance(cell, list):
        return _messages(cell, column)
    return [{"role": role, "content": _text(cell, column)}]


def _messages(turns: Any, column: str) -> Conversation:
    messages: Conversation = []
    for turn in turns or ():
        keys = next((keys for keys in _TURN_KEYS if set(keys) <= set(turn)), None)
        if keys is None:
            raise InputError(
                f"a turn in the column {column!r} is {str(turn)[:80]!r}; expected its role and "
                "content (or from and value)."
            )
        role = _ROLES.get(str(turn[keys[0]]).lower())
        if role is None:
            raise InputError(
                f"a turn has the role {turn[keys[0]]!r}; expected system, user or assistant (tools "
                "are not supported). Remove such rows, or rename the role."
            )
        messages.append({"role": role, "content": _text(turn[keys[1]], column)})
    return messages


def _text(cell: Any, column: str) -> str:
    """A text, or messages' parts of text; empty where there is nothing."""
    if isinstance(cell, list) and all(isinstance(part, dict) for part in cell):
        parts = cast("list[dict[str, Any]]", cell)
        strange = [part.get("type") for part in parts if not isinstance(part.get("text"), str)]
        if strange:
            raise InputError(
                f"{column!r} holds a part of the type {strange[0]!r}; only texts are supported."
            )
        return "".join(part["text"] for part in parts)
    if cell is not None and not isinstance(cell, str):
        raise InputError(
            f"the column {column!r} holds {str(cell)[:80]!r} ({type(cell).__name__}); expected a "
            "text. Make it one, or name other columns with --prompt-column and --completion-column."
        )
    return cell or ""


def completion_tokens(
    conversations: Mapping[int, Conversation],
    tokenizer: Any,
    *,
    max_length: int,
    counts: Counter[str],
) -> dict[str, list[Any]]:
    """Tokens of conversations by row, and which of them are the answer to learn.

    As TRL prepares prompts and completions: the tokens behind the common beginning of the prompt
    alone and of both together count, an end-of-sequence token is part of the completion. With the
    tokenizer's chat template, if it has one; where that marks what the assistant says
    (`{% generation %}`) all answers count, otherwise the last one. Without a template a single
    question is taken as it is, several turns are headed `### User:` and `### Assistant:`. Rows
    that are cut at their end, or left out, are counted in `counts`.

    Returns:
        "input_ids" and "completion_mask" (0 or 1 a token), one list a row that is left, and "row",
        which it is.
    """
    found: dict[str, list[Any]] = {"input_ids": [], "completion_mask": [], ROW: []}
    made = _tokens_and_masks(list(conversations.values()), tokenizer, counts)
    for row, (ids, mask) in zip(conversations, made, strict=True):
        if not any(mask[1:max_length]):  # nothing predicts the first token
            counts[CUT_AWAY] += 1
            continue
        counts[CUT] += len(ids) > max_length
        found["input_ids"].append(ids[:max_length])
        found["completion_mask"].append(mask[:max_length])
        found[ROW].append(row)
    return found


def _tokens_and_masks(
    conversations: Sequence[Conversation], tokenizer: Any, counts: Counter[str]
) -> Iterator[tuple[list[int], list[int]]]:
    if not conversations:
        return
    template = tokenizer.chat_template
    if template is not None and _MARKS_ANSWERS.search(template):
        options = {"return_dict": True, "return_assistant_tokens_mask": True}
        found = _templated(conversations, tokenizer, **options)
        yield from zip(found["input_ids"], found["assistant_masks"], strict=True)
        return
    counts[CONTEXT] += sum(t["role"] == "assistant" for row in conversations for t in row[:-1])
    asked = [messages[:-1] for messages in conversations]
    prompts = _templated(asked, tokenizer, tokenize=False, add_generation_prompt=True)
    texts = _templated(conversations, tokenizer, tokenize=False)
    special = template is None  # a template has its own special tokens
    ids = [tokenizer(part, add_special_tokens=special)["input_ids"] for part in (prompts, texts)]
    for prompt, whole in zip(*ids, strict=True):
        start = common_prefix_length(prompt, whole)
        yield whole, [0] * start + [1] * (len(whole) - start)


def _templated(conversations: Sequence[Conversation], tokenizer: Any, **options: Any) -> Any:
    template = tokenizer.chat_template or _PLAIN
    try:
        return tokenizer.apply_chat_template(conversations, chat_template=template, **options)
    except TemplateError as error:
        if len(conversations) > 1:  # which of them?
            for messages in conversations:
                _templated([messages], tokenizer, **options)
        roles = ", ".join(turn["role"] for turn in conversations[0])
        raise InputError(
            f"the chat template of {tokenizer.name_or_path!r} refuses a conversation of the turns "
            f"{roles} (its first words: {conversations[0][0]['content'][:60]!r}): {error}. Remove "
            "or merge such turns, or take another template (--tokenizer)."
        ) from error


def blocks(
    texts: Sequence[str], tokenizer: Any, *, length: int, counts: Counter[str], keep_rest: bool
) -> list[list[int]]:
    """Texts joined, with an end-of-sequence token behind each, and cut into blocks.

    Empty texts, and tokens that are left out, are counted in `counts`. A last, shorter block of two
    tokens or more is left out unless `keep_rest`.

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

    A row is a text, or two, of which a tokenizer makes a pair, and the longer one is cut first.
    Rows that are cut are counted in `counts`.

    Returns:
        "input_ids"; of pairs also "token_type_ids" where the tokenizer has them.
    """
    if not texts:
        return {"input_ids": []}
    columns = [list(column) for column in zip(*texts, strict=True)]
    counts[CUT] += sum(len(ids) > max_length for ids in tokenizer(*columns)["input_ids"])
    found = tokenizer(*columns, truncation=True, max_length=max_length)
    names = ("input_ids", "token_type_ids") if len(columns) == 2 else ("input_ids",)
    return {name: list(found[name]) for name in names if name in found}
