"""Tasks of reasoning-gym, https://github.com/open-thought/reasoning-gym, with its own graded score.

A task's generator draws words of three to seven letters, so difficulty is graded by length. The
instruction is the same in each of its problems and is left out: a model that knows one task learns
nothing from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from data_agent.errors import InputError
from data_agent_lab.data.problems import ASK, Problem, ProblemData, Word
from data_agent_lab.recipes import PromptRecipe

LENGTHS = (3, 7)  # letters of a problem
_SIZE = 1_000_000  # problems that a generator can make; seeds are this far apart


class _Task(NamedTuple):
    """Names of the generator's limits of length, and the letters of one of its problems."""

    limits: tuple[str, str]
    letters: Callable[[Mapping[str, Any]], str]


_TASKS: Mapping[str, _Task] = {
    "spell_backward": _Task(("min_word_len", "max_word_len"), lambda facts: facts["word"].lower()),
    "palindrome_generation": _Task(
        ("min_length", "max_length"), lambda facts: "".join(facts["letters"])
    ),
}


def load_reasoning(recipe: PromptRecipe) -> ProblemData:
    """Problems of the package's generator `recipe.problems`; a function of the recipe alone.

    `recipe.world` is the generator's seed. Problems are distinct, and of the letters a to z.
    """
    task = _TASKS[recipe.problems]
    generator = _generator(recipe, task)
    found: dict[str, Problem] = {}
    num_all = recipe.num_prompts + recipe.num_eval_prompts + recipe.num_warm_up_problems
    for entry in generator:
        letters = task.letters(entry["metadata"])
        if letters.isascii() and letters.isalpha() and letters not in found:
            found[letters] = Problem(
                (*_tokens(letters), ASK),
                _tokens(entry["answer"].lower()),
                category=len(letters) - LENGTHS[0],
                length=len(letters),
                grade=partial(_grade, generator, entry),
            )
        if len(found) == num_all:
            break
    if len(found) < num_all:
        raise InputError(
            f"{recipe.problems} has {len(found):,} distinct problems; --num-prompts, "
            f"--num-eval-prompts and --num-warm-up-problems ask for {num_all:,} together. Ask for "
            "fewer."
        )
    problems = list(found.values())
    first, second = recipe.num_eval_prompts, recipe.num_eval_prompts + recipe.num_prompts
    names = [f"{length} letters" for length in range(LENGTHS[0], LENGTHS[1] + 1)]
    return ProblemData(problems[first:second], problems[second:], problems[:first], names)


def _generator(recipe: PromptRecipe, task: _Task) -> Any:
    from reasoning_gym import create_dataset  # an extra, and a second to import

    limits = dict(zip(task.limits, LENGTHS, strict=True))
    return create_dataset(recipe.problems, seed=recipe.world * _SIZE, size=_SIZE, **limits)


def _tokens(letters: str) -> Word:
    return tuple(ord(letter) - ord("a") for letter in letters)


def _grade(generator: Any, entry: Mapping[str, Any], answer: Word) -> float:
    """The package's score of an answer; tokens that are no letters become question marks."""
    letters = (chr(ord("a") + token) if token < 26 else "?" for token in answer)
    return float(generator.score_answer("".join(letters), entry))
