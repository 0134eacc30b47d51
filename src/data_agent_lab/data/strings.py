"""String worlds: prompts with answers that can be checked, from easy to hopeless.

A problem is an operation and a word over ten letters: its answer is another word. A world has 24
operations: twelve that every world has, over an order of the letters of its own, and twelve pairs
of these, drawn by the world's number, one done after the other. Words have two to six letters, so
difficulty is graded twice.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from data_agent_lab.data.problems import ASK, Problem, ProblemData, Word
from data_agent_lab.recipes import PromptRecipe

LETTERS = 10
LENGTHS = (2, 6)  # of a problem's word
LONGEST = 12  # answer
NUM_PAIRS = 12
Operation = Callable[[Word], Word]

BASICS: dict[str, Operation] = {
    "copy": lambda w: w,
    "reverse": lambda w: w[::-1],
    "sort": lambda w: tuple(sorted(w)),
    "rotate left": lambda w: w[1:] + w[:1],
    "rotate right": lambda w: w[-1:] + w[:-1],
    "drop first": lambda w: w[1:],
    "drop last": lambda w: w[:-1],
    "double": lambda w: tuple(letter for letter in w for _ in range(2)),
    "swap halves": lambda w: w[len(w) // 2 :] + w[: len(w) // 2],
    "next letter": lambda w: tuple((letter + 1) % LETTERS for letter in w),
    "letter before": lambda w: tuple((letter - 1) % LETTERS for letter in w),
    "every other": lambda w: w[::2],
}
NUM_OPERATIONS = len(BASICS) + NUM_PAIRS


def load_strings(recipe: PromptRecipe) -> ProblemData:
    """The problems of the recipe's world; a function of the recipe alone."""
    draws = random.Random(1000 + recipe.world)
    order = draws.sample(range(LETTERS), LETTERS)
    operations = _operations(draws)
    names = list(operations)
    found: dict[tuple[int, Word], Problem] = {}
    num_all = recipe.num_prompts + recipe.num_eval_prompts + recipe.num_warm_up_problems
    while len(found) < num_all:
        number, size = draws.randrange(len(names)), draws.randint(*LENGTHS)
        word = tuple(draws.choices(range(LETTERS), k=size))
        ranks = operations[names[number]](tuple(order.index(letter) for letter in word))
        if 1 <= len(ranks) <= LONGEST:
            answer = tuple(order[rank] for rank in ranks)
            prompt = (LETTERS + number, *word, ASK)
            found.setdefault((number, word), Problem(prompt, answer, number, size))
    problems = list(found.values())
    first, second = recipe.num_eval_prompts, recipe.num_eval_prompts + recipe.num_prompts
    return ProblemData(problems[first:second], problems[second:], problems[:first], names)


def _operations(draws: random.Random) -> dict[str, Operation]:
    """The basic operations, and pairs of different ones."""
    operations = dict(BASICS)
    while len(operations) < NUM_OPERATIONS:
        first, second = draws.sample(list(BASICS), 2)
        operations[f"{first}, {second}"] = _both(BASICS[first], BASICS[second])
    return operations


def _both(first: Operation, second: Operation) -> Operation:
    return lambda word: second(first(word))
