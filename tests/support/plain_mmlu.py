"""MMLU in a few dozen lines without the evaluation harness, to hold the harness against."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

LETTERS = ("A", "B", "C", "D")
_DEFAULT_CONTEXT = 2048
_UNLIMITED = int(1e30)  # transformers' limit of tokenizers that name none


@dataclass(frozen=True, slots=True)
class Question:
    """One item: what is asked, four choices, and which of them is right (0 to 3)."""

    subject: str
    text: str
    choices: tuple[str, ...]
    answer: int


@dataclass(frozen=True, slots=True)
class Mmlu:
    """The solved examples of each subject, and the questions, ordered by subject, then by row."""

    examples: Mapping[str, Sequence[Question]]
    questions: Sequence[Question]


class Encoded(NamedTuple):
    """The tokens of a prompt, and of the four answers that may follow it."""

    prompt: Sequence[int]
    answers: Sequence[Sequence[int]]

    def num_read(self) -> int:
        """Tokens that the model reads, the longest answer's last one not among them."""
        return len(self.prompt) + max(map(len, self.answers)) - 1


@dataclass(frozen=True, slots=True, eq=False)
class MmluResult:
    """How a model does on MMLU.

    Args:
        accuracy: mean over all items, in percent.
        by_subject: accuracy in percent of each subject, in the order of the items.
        predictions: int64 `[N]`, 0 to 3; the items are ordered as `Mmlu.questions`.
        log_likelihoods: float64 `[N, 4]`, of the four answers, in nats.
        num_truncated: prompts that do not fit into the model's context, and lose their beginning.
    """

    accuracy: float
    by_subject: Mapping[str, float]
    predictions: Tensor
    log_likelihoods: Tensor
    num_truncated: int


def read_mmlu(folder: Path, *, num_shots: int = 5, limit: int | None = None) -> Mmlu:
    """Read `dev.parquet` and `test.parquet`: the first examples and questions of each subject."""
    examples, questions = (_by_subject(folder / f"{name}.parquet") for name in ("dev", "test"))
    return Mmlu(
        {subject: examples[subject][:num_shots] for subject in questions},
        [question for rows in questions.values() for question in rows[:limit]],
    )


def _by_subject(file: Path) -> dict[str, list[Question]]:
    questions: defaultdict[str, list[Question]] = defaultdict(list)
    for row in pq.read_table(file).to_pylist():
        question = Question(row["subject"], row["question"], tuple(row["choices"]), row["answer"])
        questions[question.subject].append(question)
    return dict(questions)


def prompt_of(mmlu: Mmlu, question: Question) -> str:
    """The text that the model reads before it answers: description, examples, question."""
    subject = question.subject.replace("_", " ")
    text = f"The following are multiple choice questions (with answers) about {subject}.\n\n"
    for example in mmlu.examples[question.subject]:
        text += f"{_asked(example)} {LETTERS[example.answer]}\n\n"
    return text + _asked(question)


def _asked(question: Question) -> str:
    choices = zip(LETTERS, question.choices, strict=True)
    lines = [f"{letter}. {choice}" for letter, choice in choices]
    return "\n".join([question.text.strip(), *lines, "Answer:"])


def context_length(model: Any, tokenizer: Any) -> int:
    """Tokens that a model reads at once: by its configuration, else its tokenizer, else 2048."""
    config = model.config.get_text_config()
    for name in ("n_positions", "max_position_embeddings", "n_ctx"):
        if (length := getattr(config, name, None)) is not None:
            return int(length)
    length = int(tokenizer.model_max_length)
    return length if length < _UNLIMITED else _DEFAULT_CONTEXT


def plain_mmlu(
    model: Any,
    tokenizer: Any,
    folder: Path,
    *,
    num_shots: int = 5,
    limit: int | None = None,
    batch_size: int = 8,
) -> MmluResult:
    """Evaluate a model; the most likely answer is the prediction, the first one of equals."""
    mmlu = read_mmlu(folder, num_shots=num_shots, limit=limit)
    encoded = [_encode(tokenizer, prompt_of(mmlu, question)) for question in mmlu.questions]
    max_length = context_length(model, tokenizer)
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    found = _score(model, encoded, max_length=max_length, batch_size=batch_size)
    for module, is_training in modes:
        module.training = is_training
    predictions = np.argmax(found.numpy(), axis=1)  # torch's takes any of equals
    by_subject: defaultdict[str, list[bool]] = defaultdict(list)
    for question, answer in zip(mmlu.questions, predictions, strict=True):
        by_subject[question.subject].append(bool(answer == question.answer))
    return MmluResult(
        accuracy=_percentage([item for items in by_subject.values() for item in items]),
        by_subject={subject: _percentage(items) for subject, items in by_subject.items()},
        predictions=torch.from_numpy(predictions),
        log_likelihoods=found,
        num_truncated=sum(item.num_read() > max_length for item in encoded),
    )


@torch.no_grad()
def _score(model: Any, encoded: Sequence[Encoded], *, max_length: int, batch_size: int) -> Tensor:
    """Log-likelihoods of the answers, float64 `[N, 4]`; equal texts are read once."""
    asked: defaultdict[tuple[int, ...], list[tuple[int, int]]] = defaultdict(list)
    for i, (prompt, answers) in enumerate(encoded):
        for j, answer in enumerate(answers):
            asked[tuple([*prompt, *answer][-max_length - 1 : -1])].append((i, j))
    found = torch.empty(len(encoded), len(LETTERS), dtype=torch.float64)
    texts = sorted(asked, key=len, reverse=True)
    for start in range(0, len(texts), batch_size):
        batch = texts[start : start + batch_size]
        rows = [torch.tensor(text) for text in batch]
        logits: Tensor = model(input_ids=pad_sequence(rows, batch_first=True)).logits
        for text, row in zip(batch, logits, strict=True):  # what is padded comes after the text
            for i, j in asked[text]:
                answer = torch.tensor(encoded[i].answers[j])
                log_p = F.log_softmax(row[len(text) - len(answer) : len(text)], dim=-1)
                found[i, j] = log_p.gather(1, answer[:, None]).sum()
    return found


def _encode(tokenizer: Any, prompt: str) -> Encoded:
    """An answer's tokens are those that the prompt has more once it is answered."""
    tokens = tokenizer.encode(prompt, verbose=False)
    answered = (tokenizer.encode(f"{prompt} {letter}", verbose=False) for letter in LETTERS)
    return Encoded(tokens, [more[len(tokens) :] for more in answered])


def _percentage(items: Sequence[bool]) -> float:
    return 100 * sum(items) / len(items)
