"""Examples of tasks beyond classes of images: each learns, at one budget, with trusted rows too."""

import runpy
from pathlib import Path

import pytest

pytest.importorskip("sklearn", reason="its data sets come with scikit-learn")

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parents[1] / "examples"
FLOORS = {  # what a model that learned nothing stays below
    "segmentation": 0.6,
    "multi_label": 0.4,
    "regression": 0.3,
    "tabular": 0.8,
    "token_classification": 0.8,
}
each_example = pytest.mark.parametrize("name", FLOORS)


def load(name, **constants):
    """An example's names, with other constants, and the list of selectors that it will make."""
    names = runpy.run_path(str(FOLDER / f"{name}.py"))
    inside, made = names["train"].__globals__, []

    def noting(make):
        def make_and_note(*args, **options):
            made.append(make(*args, **options))
            return made[-1]

        return make_and_note

    inside.update(constants, make_selector=noting(inside["make_selector"]))
    return names, made


@each_example
def test_an_example_ends_with_a_result_against_random_at_the_same_budget(name, capsys):
    names, made = load(name, SEEDS=1)
    scores = names["main"]()
    printed = capsys.readouterr().out
    assert all(f"{score:.3f}" in printed for score in scores.values())
    assert {selector.name for selector in made} == {"random", "data-agent"}
    assert len({selector.visits for selector in made}) == 1
    assert made[0].visits == made[0].schedule.total_visits
    assert min(scores.values()) > FLOORS[name]
    for words, score in scores.items():
        if words.startswith("data-agent, 40 trusted"):
            assert score > scores[words.replace("data-agent", "random")] + 0.01


@each_example
def test_trusted_rows_work_in_it(name):
    names, made = load(name, EPOCHS=5)
    names["train"]("data-agent", trusted=range(20))
    (agent,) = made
    metrics = agent.metrics()
    assert metrics["trusted_rows"] == 20
    assert metrics["policy_updates"] > 0
    assert 0 <= metrics["trusted_separation_held_back"] <= 1
    assert set(range(20)) <= set(agent.select(agent.epoch).index.tolist())
    assert agent.visits == agent.schedule.total_visits
