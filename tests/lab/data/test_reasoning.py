"""Tasks of reasoning-gym: what is asked, what is right, and the package's own score."""

from dataclasses import replace

import pytest

from data_agent.errors import InputError
from data_agent_lab.data.makers import load_problems
from data_agent_lab.data.problems import ASK, END, LONGEST_PROMPT, MAX_NEW_TOKENS
from data_agent_lab.tasks import recipe_for

pytest.importorskip("reasoning_gym", reason="needs the extra reasoning")

TASKS = ("reasoning-spell-backward", "reasoning-palindrome")
SMALL = {"num_prompts": 80, "num_eval_prompts": 20, "num_warm_up_problems": 30}


def problems_of(task, **changes):
    return load_problems(replace(recipe_for(task), **SMALL, **changes))


def tokens(letters):
    return tuple(ord(letter) - ord("a") for letter in letters)


def with_end(letters):
    return (*tokens(letters), END)


@pytest.mark.parametrize("task", TASKS)
def test_problems_are_distinct_and_fit_into_the_model(task):
    data = problems_of(task)
    every = [*data.train, *data.evaluation, *data.warm_up]
    assert (data.num_train, data.num_eval, len(data.warm_up)) == (80, 20, 30)
    assert len({problem.prompt for problem in every}) == 130
    assert {problem.length for problem in every} == {3, 4, 5, 6, 7}
    for problem in every:
        assert problem.prompt[-1] == ASK
        assert len(problem.prompt) == problem.length + 1 <= LONGEST_PROMPT
        assert len(problem.completion) <= MAX_NEW_TOKENS
        assert data.class_names[problem.category] == f"{problem.length} letters"
        assert problem.reward(problem.completion) == 1
        assert problem.reward(problem.answer) == 0  # without an end


@pytest.mark.parametrize("task", TASKS)
def test_problems_are_a_function_of_the_seed(task):
    assert problems_of(task) == problems_of(task)
    assert problems_of(task).evaluation != problems_of(task, world=1).evaluation


def test_a_word_spelled_backward_is_graded_by_its_places():
    problem = next(p for p in problems_of(TASKS[0]).train if p.length == 4)
    assert problem.answer == problem.prompt[-2::-1]
    first, *others = problem.answer
    wrong = tuple((token + 1) % 26 for token in others)
    assert problem.reward((first, *wrong, END)) == 0.25
    assert problem.reward((*problem.answer, 0, END)) == pytest.approx(0.8)  # too long
    assert problem.reward((30, *wrong, END)) == 0  # a token that is no letter


def test_any_palindrome_of_the_letters_is_right():
    train = problems_of(TASKS[1]).train
    problem = next(p for p in train if p.length == 4 and len(set(p.answer)) == 2)
    one, other, *_ = problem.answer
    assert problem.reward((one, other, other, one, END)) == 1
    assert problem.reward((other, one, one, other, END)) == 1
    assert problem.reward((one, one, END)) == 0.05  # a palindrome of other letters
    assert problem.reward((one, other, END)) == 0.02  # none


def test_more_problems_than_there_are_are_refused(monkeypatch):
    monkeypatch.setattr("data_agent_lab.data.reasoning._SIZE", 50)
    with pytest.raises(InputError, match=r"distinct problems; .* ask for \d[\d,]* together"):
        problems_of("reasoning-spell-backward")
