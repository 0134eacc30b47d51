"""What a comparison comes to in words, from numbers by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from page_runs import VALUES, group, record, report
from run_folders import make_language_runs

from data_agent_lab.results.conclusions import Conclusion, conclude
from data_agent_lab.results.groups import Group
from data_agent_lab.results.report import summarise


def conclusion(runs: Group) -> Conclusion:
    found = conclude(report(runs).tasks[0].cells[0])
    assert found is not None
    return found


def with_values(**by_seed: list[float]) -> Group:
    """Runs of methods (with _ for -) by seed."""
    made = group(seeds=(0,))
    records = [
        record(method.replace("_", "-"), seed, value=value)
        for method, values in by_seed.items()
        for seed, value in enumerate(values)
    ]
    return replace(made, records=records)


def test_all_of_it_by_hand() -> None:
    # differences to full -3, -2, -1: s = 1, half-width 4.3027 / sqrt(3) = 2.484;
    # to full-short 2, 3, 4 and to random 4, 5, 6
    found = conclusion(
        with_values(
            full=[93.0, 93.0, 93.0],
            full_short=[88.0, 88.0, 88.0],
            random=[86.0, 86.0, 86.0],
            data_agent=[90.0, 91.0, 92.0],
        )
    )
    assert found.in_words() == (
        "At 50 % of the visits, data-agent ends at accuracy 91.0 %: 2.0 +- 2.5 points below full "
        "training, 3.0 +- 2.5 points above full data for the same steps and 5.0 +- 2.5 points "
        "above random data for the same steps, in 0.50 of the time. Selecting pays here. "
        "3 seeds: a first sign; 5 are a claim."
    )


@pytest.mark.parametrize(
    ("agent", "answer", "advice"),
    [
        ([90.0, 91.0, 92.0], "pays", "Selecting pays here."),
        (
            [87.0, 88.0, 92.0],
            "no gain",
            "That selecting pays is not shown here: the difference is within the seeds' "
            "intervals, and full-short is simpler.",
        ),
        (
            [80.0, 81.0, 82.0],
            "harms",
            "Selecting does not pay here: use full-short, which ends better at no more cost.",
        ),
        ([95.0, 96.0], "not known", "Whether selecting pays is not known from so few seeds."),
    ],
)
def test_the_advice_goes_by_both_controls_beyond_the_intervals(
    agent: list[float], answer: str, advice: str
) -> None:
    found = conclusion(
        with_values(full_short=[88.0, 88.0, 88.0], random=[86.0, 86.0, 86.0], data_agent=agent)
    )
    assert (found.answer, found.advice) == (answer, advice)


@pytest.mark.parametrize(
    ("seeds", "claim"),
    [
        (1, "One seed: no claim."),
        (2, "2 seeds: no claim."),
        (4, "4 seeds: a first sign; 5 are a claim."),
        (5, "5 seeds: a claim."),
    ],
)
def test_the_claim_goes_by_the_seeds(seeds: int, claim: str) -> None:
    assert conclusion(group(seeds=range(seeds))).claim == claim


def test_what_costs_more_than_its_controls_has_not_shown_that_it_pays() -> None:
    made = group({name: VALUES[name] for name in ("full-short", "random")})
    dear = [record("seta", seed, value=95.0 + seed / 10, cost=0.8) for seed in range(3)]
    found = conclusion(replace(made, records=[*made.records, *dear]))
    assert found.answer == "not known"
    assert "At 80 % of the cost of full training, seta" in found.found
    assert "6.0 +- 0.0 points above full data at 50 %" in found.found
    assert found.advice.endswith("nothing that costs as much as seta was trained beside it.")


def test_what_costs_less_than_its_controls_and_ends_below_them_is_not_said_to_harm() -> None:
    made = group({name: VALUES[name] for name in ("full-short", "random")})
    for value, answer in ((60.0, "not known"), (95.0, "pays")):
        cheap = [record("seta", seed, value=value + seed / 10, cost=0.35) for seed in range(3)]
        found = conclusion(replace(made, records=[*made.records, *cheap]))
        assert found.answer == answer
        assert "full data at 50 % and" in found.found
    cheap = [record("seta", seed, value=60 + seed / 10, cost=0.35) for seed in range(3)]
    found = conclusion(replace(made, records=[*made.records, *cheap]))
    assert found.advice.endswith("nothing that costs as little as seta was trained beside it.")
    assert found.claim == "3 seeds: no claim."


@pytest.mark.parametrize("missing", ["full_short", "random"])
def test_it_pays_only_where_both_controls_were_beaten(missing: str) -> None:
    values = {"full_short": [88.0] * 5, "random": [86.0] * 5, "data_agent": [90.0, 91, 92, 91, 90]}
    assert conclusion(with_values(**values)).answer == "pays"
    found = conclusion(with_values(**{**values, missing: []}))
    assert (found.answer, found.claim) == ("not known", "5 seeds: no claim.")
    name = missing.replace("_", "-")
    assert found.advice.endswith(f"{name}, which costs the same, was not trained beside it.")
    worse = {**values, missing: [], "data_agent": [80.0, 81, 82, 81, 80]}
    assert conclusion(with_values(**worse)).answer == "harms"


def test_the_better_control_is_the_one_that_is_better_on_the_same_seeds() -> None:
    # full-short on more seeds, on which everything would have ended higher
    found = conclusion(
        with_values(
            full_short=[77.0, 77.0, 77.0, 96.0, 96.0],
            random=[79.0, 79.0, 79.0],
            data_agent=[78.0, 78.0, 78.0],
        )
    )
    assert "use random, which ends better at no more cost" in found.advice


def test_fewer_seeds_of_full_training_are_said() -> None:
    found = conclusion(
        with_values(
            full=[89.0], full_short=[88.0] * 5, random=[86.0] * 5, data_agent=[90.0] * 4 + [91.0]
        )
    )
    assert "1.0 points above full training (1 seed), 2.2" in found.found
    assert found.claim == "5 seeds: a claim."


def test_without_the_agent_it_is_about_the_best_of_the_same_cost_and_no_claim() -> None:
    made = group({**VALUES, "seta": 92.5, "ucb": 91.5}, seeds=range(5))
    records = [r for r in made.records if r.configuration["method"] != "data-agent"]
    dear = [record("el2n", seed, value=95.0, cost=0.8) for seed in range(5)]
    found = conclusion(replace(made, records=[*records, *dear]))
    assert found.method == "seta"
    assert found.claim == "5 seeds, but the best of 3 picked by these numbers: no claim."


def test_lower_losses_are_better(tmp_path: Path) -> None:
    make_language_runs(tmp_path)
    (task,) = summarise(tmp_path).tasks
    found = conclude(task.cells[0])
    assert found is not None
    assert (
        "ends at loss 2.250 nats (lower is better): 0.200 +- 0.000 nats above full" in found.found
    )
    assert "0.300 +- 0.000 nats below full data for the same steps" in found.found


def test_times_of_different_machines_are_not_compared() -> None:
    cell = report(group()).tasks[0].cells[0]
    for one_machine in (True, False):
        found = conclude(replace(cell, one_machine=one_machine))
        assert found is not None
        assert (" of the time." in found.found) == one_machine


def test_controls_alone_come_to_nothing() -> None:
    cell = report(group({"full": 90.0, "random": 89.0})).tasks[0].cells[0]
    assert conclude(cell) is None
