"""MMLU from local files: its questions, its prompts, and a plain way to score them.

The lab evaluates by `data_agent_lab.lm_eval`, whose numbers are those that others report.
`plain_mmlu` computes the same in a few dozen lines that need no evaluation harness; the tests hold
one against the other.

Source: Hendrycks et al., Measuring Massive Multitask Language Understanding, ICLR 2021
(https://arxiv.org/abs/2009.03300).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from data_agent.errors import InputError

LETTERS = ("A", "B", "C", "D")
_COLUMNS = ("question", "subject", "choices", "answer")
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
    """What is asked, and the solved examples that stand before each question.

    Args:
        examples: by subject, in the order of the file.
        questions: by subject, in the order in which the file names these, then by row.
    """

    examples: Mapping[str, Sequence[Question]]
    questions: Sequence[Question]


class Encoded(NamedTuple):
    """The tokens of a prompt, and of the four answers that may follow it."""

    prompt: Sequence[int]
    answers: Sequence[Sequence[int]]

    def num_read(self) -> int:
        """Tokens that the model reads, the longest answer's last one not among them."""
        return len(self.prompt) + max(map(len, self.answers)) - 1


class Cut(NamedTuple):
    """Prompts that are longer than the model's context and were cut at their beginning."""

    num_truncated: int
    """Prompts without their description and some of their examples."""
    num_cut_questions: int
    """Those of them that lost a part of the question itself."""


@dataclass(frozen=True, slots=True, eq=False)
class MmluResult:
    """How a model does on MMLU.

    Args:
        accuracy: mean over all items, in percent.
        num_items: N.
        by_subject: accuracy in percent of each subject, in the order of the items.
        predictions: int64 `[N]`, 0 to 3; the items are ordered as `Mmlu.questions`.
        log_likelihoods: float64 `[N, 4]`, of the four answers, in nats.
        cut: prompts that did not fit into the model's context.
    """

    accuracy: float
    num_items: int
    by_subject: Mapping[str, float]
    predictions: Tensor
    log_likelihoods: Tensor
    cut: Cut


def read_mmlu(folder: Path, *, num_shots: int = 5, limit: int | None = None) -> Mmlu:
    """Read the benchmark from `dev.parquet` and `test.parquet`.

    Args:
        folder: holds both files, each with the columns question, subject, choices (four texts) and
            answer (0 to 3), as the hub's `cais/mmlu`.
        num_shots: examples before each question, the first of its subject in `dev.parquet`.
        limit: take the first so many questions of each subject; None takes all.

    Raises:
        InputError: a number out of range, a missing file or column, a row that is no item, or a
            subject without enough examples.
    """
    if num_shots < 0 or (limit is not None and limit < 1):
        raise InputError(
            f"num_shots is {num_shots} and limit {limit}; expected 0 examples or more before each "
            "question, and 1 question of each subject or more (None takes all)."
        )
    examples = _read(folder / "dev.parquet")
    questions = _read(folder / "test.parquet")
    if not questions:
        raise InputError(f"{folder / 'test.parquet'} holds no question.")
    for subject in questions:
        if (found := len(examples.get(subject, []))) < num_shots:
            raise InputError(
                f"{folder}: test.parquet asks about {subject}, of which dev.parquet has {found} "
                f"solved examples; {num_shots} are to stand before each question. Complete "
                "dev.parquet, or ask for fewer examples."
            )
    return Mmlu(
        {subject: examples.get(subject, [])[:num_shots] for subject in questions},
        [question for rows in questions.values() for question in rows[:limit]],
    )


def prompt_of(mmlu: Mmlu, question: Question) -> str:
    """The text that the model reads before it answers: description, examples, question."""
    subject = question.subject.replace("_", " ")
    text = f"The following are multiple choice questions (with answers) about {subject}.\n\n"
    for example in mmlu.examples[question.subject]:
        text += f"{_asked(example)} {LETTERS[example.answer]}\n\n"
    return text + _asked(question)


def check_batch_size(batch_size: int) -> None:
    """Refuse batches without a row."""
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}; expected 1 row or more in a forward pass.")


def context_length(model: Any, tokenizer: Any) -> int:
    """Tokens that a model of transformers reads at once, by the harness's rule.

    It is what the model's configuration says, else what the tokenizer says, else 2048.
    """
    config = model.config.get_text_config()
    for name in ("n_positions", "max_position_embeddings", "n_ctx"):
        if (length := getattr(config, name, None)) is not None:
            return int(length)
    length = int(tokenizer.model_max_length)
    return length if length < _UNLIMITED else _DEFAULT_CONTEXT


def measure(tokenizer: Any, mmlu: Mmlu, encoded: Sequence[Encoded], *, max_length: int) -> Cut:
    """Check that the model can be asked, and count the prompts that its context cuts.

    Args:
        tokenizer: of transformers.
        mmlu: what is asked.
        encoded: its questions, in order.
        max_length: tokens of the model's context.

    Raises:
        InputError: answers that cannot be told apart, or a context that holds no single question.
    """
    num_truncated, num_cut_questions = 0, 0
    ends = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    for question, item in zip(mmlu.questions, encoded, strict=True):
        _check_answers(item, ends)
        if item.num_read() <= max_length:
            continue
        num_truncated += 1
        alone = tokenizer.encode(_asked(question), add_special_tokens=False, verbose=False)
        num_cut_questions += Encoded(alone, item.answers).num_read() > max_length
    if num_cut_questions == len(encoded):
        raise InputError(
            f"The model reads {max_length} tokens, and none of the {len(encoded)} questions is "
            "that short, even without examples. MMLU needs a model with a longer context; five "
            "examples and a question take 500 to 3,000 tokens."
        )
    return Cut(num_truncated, num_cut_questions)


def summarise(
    mmlu: Mmlu, log_likelihoods: Tensor, is_correct: Sequence[bool], cut: Cut
) -> MmluResult:
    """Put a result together; the most likely answer is the prediction, the first one of equals.

    Args:
        mmlu: what was asked.
        log_likelihoods: float64 `[N, 4]`.
        is_correct: of each question, whether the prediction is right.
        cut: prompts that did not fit.
    """
    by_subject: defaultdict[str, list[bool]] = defaultdict(list)
    for question, correct in zip(mmlu.questions, is_correct, strict=True):
        by_subject[question.subject].append(correct)
    return MmluResult(
        accuracy=_percentage(is_correct),
        num_items=len(is_correct),
        by_subject={subject: _percentage(items) for subject, items in by_subject.items()},
        predictions=_most_likely(log_likelihoods),
        log_likelihoods=log_likelihoods,
        cut=cut,
    )


def plain_mmlu(
    model: Any,
    tokenizer: Any,
    folder: Path,
    *,
    num_shots: int = 5,
    limit: int | None = None,
    batch_size: int = 8,
) -> MmluResult:
    """Evaluate a model on MMLU without the evaluation harness.

    The likelihood of an answer is that of its tokens (" A" to " D") after the prompt. Prompts that
    are longer than the model's context lose their beginning, and are counted.

    Args:
        model: a causal model of transformers, on one device; it is left in the mode it was in.
        tokenizer: the model's, of transformers.
        folder: see `read_mmlu`.
        num_shots: see `read_mmlu`.
        limit: see `read_mmlu`.
        batch_size: prompts in a forward pass, 1 or more.

    Raises:
        InputError: see `read_mmlu` and `measure`; no batch size.
    """
    check_batch_size(batch_size)
    mmlu = read_mmlu(folder, num_shots=num_shots, limit=limit)
    encoded = [_encode(tokenizer, prompt_of(mmlu, question)) for question in mmlu.questions]
    max_length = context_length(model, tokenizer)
    cut = measure(tokenizer, mmlu, encoded, max_length=max_length)
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        found = _score(model, encoded, max_length=max_length, batch_size=batch_size)
    finally:
        for module, is_training in modes:
            module.training = is_training
    answers = torch.tensor([question.answer for question in mmlu.questions])
    return summarise(mmlu, found, (_most_likely(found) == answers).tolist(), cut)


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
        rows = [torch.tensor(text, device=model.device) for text in batch]
        logits: Tensor = model(input_ids=pad_sequence(rows, batch_first=True)).logits
        for text, row in zip(batch, logits, strict=True):  # what is padded comes after the text
            for i, j in asked[text]:
                answer = torch.tensor(encoded[i].answers[j], device=model.device)
                log_p = F.log_softmax(row[len(text) - len(answer) : len(text)], dim=-1)
                found[i, j] = log_p.gather(1, answer[:, None]).sum()
    return found


def _encode(tokenizer: Any, prompt: str) -> Encoded:
    """An answer's tokens are those that the prompt has more once it is answered."""
    tokens = tokenizer.encode(prompt, verbose=False)
    answered = (tokenizer.encode(f"{prompt} {letter}", verbose=False) for letter in LETTERS)
    return Encoded(tokens, [more[len(tokens) :] for more in answered])


def _check_answers(item: Encoded, ends: Set[int]) -> None:
    answers = [list(answer) for answer in item.answers]
    can_be_told_apart = all(answers) and len(set(map(tuple, answers))) == len(answers)
    if can_be_told_apart and item.prompt[-1] not in ends:
        return
    raise InputError(
        f"The prompt's tokens end with {list(item.prompt[-3:])}, those of the answers ' A' to ' D' "
        f"after it are {answers}; expected a prompt without a special token at its end, and "
        "answers with tokens of their own that differ. The tokenizer ends every text, joins the "
        "answers with what stands before, or does not know the letters: use one that was made for "
        "language models."
    )


def _asked(question: Question) -> str:
    choices = zip(LETTERS, question.choices, strict=True)
    lines = [f"{letter}. {choice}" for letter, choice in choices]
    return "\n".join([question.text.strip(), *lines, "Answer:"])


def _most_likely(log_likelihoods: Tensor) -> Tensor:
    return torch.from_numpy(
        np.argmax(log_likelihoods.numpy(), axis=1)
    )  # torch's takes any of equals


def _percentage(items: Sequence[bool]) -> float:
    return 100 * sum(items) / len(items)


def _read(file: Path) -> dict[str, list[Question]]:
    """The questions of a file by subject."""
    if not file.is_file():
        raise InputError(
            f"{file} does not exist. Expected a folder with dev.parquet and test.parquet, which "
            f"have the columns {', '.join(_COLUMNS)}, as the hub's cais/mmlu."
        )
    try:
        table = pq.read_table(file)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{file} could not be read as parquet: {error}.") from error
    if missing := [name for name in _COLUMNS if name not in table.column_names]:
        raise InputError(
            f"{file} has no column {', '.join(missing)}; it has {', '.join(table.column_names)}. "
            f"Expected {', '.join(_COLUMNS)}."
        )
    questions: defaultdict[str, list[Question]] = defaultdict(list)
    for i, row in enumerate(table.select(_COLUMNS).to_pylist()):
        question = _question(row, where=f"row {i} of {file}")
        questions[question.subject].append(question)
    return dict(questions)


def _question(row: Mapping[str, Any], *, where: str) -> Question:
    choices = row["choices"] if isinstance(row["choices"], list) else []
    texts = [row["question"], row["subject"], *choices]
    is_text = len(choices) == len(LETTERS) and all(isinstance(text, str) for text in texts)
    if not is_text or row["answer"] not in range(len(LETTERS)):
        raise InputError(
            f"{where} is {dict(row)}; expected texts for question and subject, four texts as "
            "choices, and an answer from 0 to 3."
        )
    return Question(row["subject"], row["question"], tuple(choices), int(row["answer"]))
