"""Rows of instruction sets, in whichever layout they come: what is asked, and what to answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, cast

import datasets

from data_agent.errors import InputError
from data_agent_lab.recipes import TextRecipe

Conversation = list[Mapping[str, str]]
"""Turns, each with "role" (system, user, assistant) and "content"."""

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


def read_conversations(
    rows: datasets.Dataset, recipe: TextRecipe, *, has_template: bool, dropped: Counter[str]
) -> list[Conversation]:
    """Every row as a conversation that ends with the answer to learn.

    Layouts are told by the names of columns; an instruction may have an input or a context beside
    it. Others are named by the recipe's `prompt_column` and `completion_column`.

    Args:
        rows: of one split.
        recipe: names the columns, where they have other names.
        has_template: whether the tokenizer has a chat template. Without one an instruction is put
            into the prompt of Alpaca.
        dropped: rows and turns that cannot be learned are left out and counted here.

    Raises:
        InputError: no layout fits the columns, or several do; a cell holds no text.
    """
    first, *others = _columns(rows.column_names, recipe)
    is_instruction = first == "instruction" and recipe.prompt_column is None
    conversations: list[Conversation] = []
    for row in cast("Sequence[Mapping[str, Any]]", rows):
        if not others:
            turns = _messages(row[first], first)
        else:
            asked = _instruction(row, has_template) if is_instruction else row[first]
            turns = _turns(asked, first, "user") + _turns(row[others[0]], others[0], "assistant")
        last = max((i for i, turn in enumerate(turns) if _is_answer(turn)), default=None)
        if last is None:
            dropped[NO_COMPLETION] += 1
            continue
        dropped[BEHIND] += len(turns) - 1 - last
        if all(turn["role"] == "system" for turn in turns[:last]):  # templates want a question
            turns.insert(last, {"role": "user", "content": ""})
            last += 1
        conversations.append(turns[: last + 1])
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


def _is_answer(turn: Mapping[str, str]) -> bool:
    return turn["role"] == "assistant" and bool(turn["content"].strip())


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
                f"the column {column!r} holds a part of the type {strange[0]!r}; only texts are "
                "supported. Remove such rows."
            )
        return "".join(part["text"] for part in parts)
    if cell is not None and not isinstance(cell, str):
        raise InputError(
            f"the column {column!r} holds {str(cell)[:80]!r} ({type(cell).__name__}); expected a "
            "text. Make it one, or name other columns with --prompt-column and --completion-column."
        )
    return cell or ""
