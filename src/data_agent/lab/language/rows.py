"""Rows of instruction sets, in whichever layout they come: what is asked, and what to answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import datasets

from data_agent._errors import InputError
from data_agent.lab.language.recipe import LanguageSetup

Message = Mapping[str, str]  # has "role" (system, user, assistant) and "content"
Conversation = list[Message]  # its last message is the assistant's

NO_COMPLETION = "without a completion"

# The prompt of Stanford Alpaca (github.com/tatsu-lab/stanford_alpaca), with and without an input.
_ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes "
    "the request.\n\n### Instruction:\n{instruction}\n\n### Response:\n"
)
_ALPACA_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)
_ROLES = {
    **{"system": "system", "user": "user", "assistant": "assistant"},
    **{"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant"},
}


def read_conversations(
    rows: datasets.Dataset, recipe: LanguageSetup, *, has_template: bool, dropped: Counter[str]
) -> list[Conversation]:
    """Every row as a conversation that ends with the answer to learn.

    Layouts, told by the names of columns: prompt, completion; instruction, input (may be missing),
    output; question, answer; messages (role, content); conversations (from, value). Others by the
    recipe's `prompt_column` and `completion_column`.

    Args:
        rows: of one split.
        recipe: names the columns, where they have other names.
        has_template: whether the tokenizer has a chat template. Without one an instruction is put
            into the prompt of Alpaca.
        dropped: rows that cannot be learned are left out and counted here.

    Raises:
        InputError: no layout fits the columns, or several do.
    """
    read = _reader(list(rows.column_names), recipe, has_template=has_template)
    conversations: list[Conversation] = []
    for row in rows:
        conversation = read(row)
        if conversation is None:
            dropped[NO_COMPLETION] += 1
        else:
            conversations.append(conversation)
    return conversations


_Reader = Callable[[Any], "Conversation | None"]


def _reader(columns: Sequence[str], recipe: LanguageSetup, *, has_template: bool) -> _Reader:
    prompt, completion = recipe.prompt_column, recipe.completion_column
    if (prompt is None) != (completion is None):
        raise InputError("--prompt-column and --completion-column go together; give both or none.")
    if prompt is not None and completion is not None:
        missing = [name for name in (prompt, completion) if name not in columns]
        if missing:
            raise InputError(f"there is no column {missing[0]!r}; the data has {_list(columns)}.")
        return lambda row: _pair(row[prompt], row[completion])
    layouts: dict[tuple[str, ...], _Reader] = {
        ("messages",): lambda row: _messages(row["messages"], "role", "content"),
        ("conversations",): lambda row: _messages(row["conversations"], "from", "value"),
        ("prompt", "completion"): lambda row: _pair(row["prompt"], row["completion"]),
        ("instruction", "output"): lambda row: _pair(
            _instruction(row, has_template=has_template), row["output"]
        ),
        ("question", "answer"): lambda row: _pair(row["question"], row["answer"]),
    }
    fitting = [names for names in layouts if set(names) <= set(columns)]
    if len(fitting) != 1:
        known = "; ".join(_list(names) for names in fitting or layouts)
        problem = "fit several layouts" if fitting else "fit none of the layouts"
        raise InputError(
            f"the data's columns ({_list(columns)}) {problem} we know: {known}. Name two columns "
            "with --prompt-column and --completion-column, or remove those not meant."
        )
    return layouts[fitting[0]]


def _list(names: Sequence[str]) -> str:
    return ", ".join(names)


def _pair(prompt: Any, completion: Any) -> Conversation | None:
    if isinstance(prompt, list) and isinstance(completion, list):  # both in messages
        return _messages([*prompt, *completion], "role", "content")
    if not isinstance(completion, str) or not completion.strip():
        return None
    user = {"role": "user", "content": str(prompt or "")}
    return [user, {"role": "assistant", "content": completion}]


def _instruction(row: Mapping[str, Any], *, has_template: bool) -> str:
    given = {name: (row.get(name) or "").strip() for name in ("instruction", "input")}
    if has_template:
        return "\n\n".join(text for text in given.values() if text)
    return (_ALPACA_INPUT if given["input"] else _ALPACA).format(**given)


def _messages(turns: Any, role: str, content: str) -> Conversation | None:
    if not turns or not isinstance(turns, list):
        return None
    messages: list[dict[str, str]] = []
    for turn in turns:
        known = _ROLES.get(str(turn[role]).lower())
        if known is None:
            raise InputError(
                f"a turn has the role {turn[role]!r}; expected system, user or assistant (tools "
                "are not supported). Remove such rows, or rename the role."
            )
        messages.append({"role": known, "content": turn[content] or ""})
    is_answer = messages[-1]["role"] == "assistant" and messages[-1]["content"].strip()
    return list(messages) if is_answer else None
