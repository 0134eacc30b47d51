"""Problems to roll out: a prompt in tokens, and what an answer earns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

Word = tuple[int, ...]
"""Tokens."""

NUM_SYMBOLS = 34  # tokens of prompts and answers; what they stand for is each maker's
PAD, END, ASK = range(NUM_SYMBOLS, NUM_SYMBOLS + 3)
VOCABULARY = ASK + 1
LONGEST_PROMPT = 8  # the ask at its end counted
MAX_NEW_TOKENS = 13  # of an answer, its end counted


@dataclass(frozen=True, slots=True)
class Problem:
    """A prompt that ends by `ASK`, a right answer, and what answers earn.

    Args:
        prompt: tokens.
        answer: tokens of an answer that earns 1, without `END`.
        category: number of its kind, for the tables.
        length: how long it is, which is how difficult.
        grade: of an answer without `END`, its reward in [0, 1]; None gives 1 to `answer` alone.
    """

    prompt: Word
    answer: Word
    category: int
    length: int
    grade: Callable[[Word], float] | None = field(default=None, compare=False)

    @property
    def completion(self) -> Word:
        """Tokens of the right completion."""
        return (*self.answer, END)

    def reward(self, completion: Word) -> float:
        """What a completion earns; nothing if it has no end.

        Args:
            completion: tokens, without padding.
        """
        if self.grade is None or completion[-1] != END:
            return float(completion == self.completion)
        return self.grade(completion[:-1])


@dataclass(frozen=True, slots=True)
class ProblemData:
    """Problems of a task, none of them twice.

    Args:
        train: prompts that may be rolled out.
        warm_up: problems that the model is taught first.
        evaluation: held-out problems.
        class_names: the categories.
    """

    train: Sequence[Problem]
    warm_up: Sequence[Problem]
    evaluation: Sequence[Problem]
    class_names: Sequence[str]

    @property
    def num_train(self) -> int:
        """Prompts that may be rolled out."""
        return len(self.train)

    @property
    def num_eval(self) -> int:
        """Held-out problems."""
        return len(self.evaluation)

    def in_words(self) -> str:
        """What there is."""
        return (
            f"{self.num_train:,} prompts and {self.num_eval:,} held-out problems of "
            f"{len(self.class_names)} kinds"
        )
