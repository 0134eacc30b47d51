"""String worlds: problems that can be checked, none of them twice."""

from dataclasses import replace

import pytest

from data_agent.errors import InputError
from data_agent_lab.data.problems import ASK, END, LONGEST_PROMPT, MAX_NEW_TOKENS, NUM_SYMBOLS
from data_agent_lab.data.strings import (
    BASICS,
    LENGTHS,
    LETTERS,
    LONGEST,
    NUM_OPERATIONS,
    load_strings,
)
from data_agent_lab.tasks import recipe_for

SMALL = replace(
    recipe_for("string-world"), num_prompts=300, num_eval_prompts=60, num_warm_up_problems=40
)


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("reverse", (0, 1, 2, 3)),
        ("sort", (0, 1, 2, 3)),
        ("rotate left", (2, 1, 0, 3)),
        ("rotate right", (0, 3, 2, 1)),
        ("double", (3, 3, 2, 2, 1, 1, 0, 0)),
        ("swap halves", (1, 0, 3, 2)),
        ("next letter", (4, 3, 2, 1)),
        ("letter before", (2, 1, 0, 9)),
        ("every other", (3, 1)),
    ],
)
def test_operations(name, answer):
    assert BASICS[name]((3, 2, 1, 0)) == answer


def test_a_world_is_a_function_of_its_number():
    first, again = load_strings(SMALL), load_strings(SMALL)
    assert first == again
    assert load_strings(replace(SMALL, world=1)).evaluation != first.evaluation
    assert len(first.class_names) == 24


def test_problems_are_distinct_and_short_enough():
    data = load_strings(SMALL)
    assert (data.num_train, data.num_eval, len(data.warm_up)) == (300, 60, 40)
    every = [*data.train, *data.evaluation, *data.warm_up]
    assert len({problem.prompt for problem in every}) == 400
    for problem in every:
        assert problem.prompt[-1] == ASK
        assert problem.completion[-1] == END
        assert 1 <= len(problem.answer) <= LONGEST
        assert max(problem.answer) < LETTERS


def test_worlds_fit_into_the_vocabulary_and_the_places_of_the_model():
    assert LETTERS + NUM_OPERATIONS == NUM_SYMBOLS
    assert LENGTHS[1] + 2 == LONGEST_PROMPT  # the operation, and the ask
    assert LONGEST + 1 == MAX_NEW_TOKENS


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "llama-8x1"}, "expected decoder-HIDDENxLAYERS"),
        ({"batch_size": 400}, "batch-size is 400, but there are 300 prompts"),
        ({"generations": 1}, "generations is 1"),
    ],
)
def test_recipes_out_of_range_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        replace(SMALL, **changes)
