"""The advice by hand: what data and pilots say, what they leave open, and intervals."""

from __future__ import annotations

import math

import pytest

from data_agent_lab.planning.advice import (
    Facts,
    Pilot,
    Thresholds,
    advise,
    differences,
    half_width,
    skew_of,
)

EQUAL = Facts(num_classes=10, skew=0.03, doubted=0.05)
TIED: Pilot = {
    "full-short": {0: 60.0, 1: 61.0},
    "random": {0: 60.5, 1: 60.5},
    "label-aware": {0: 59.8, 1: 61.4},
    "data-agent": {0: 60.1, 1: 60.6},
}


def changed(pilot: Pilot, **above: float) -> Pilot:
    """The pilot with methods (`_` for `-`) so much above full-short, the same in every seed."""
    control = pilot["full-short"]
    moved = {name.replace("_", "-"): by for name, by in above.items()}
    return pilot | {m: {seed: v + by for seed, v in control.items()} for m, by in moved.items()}


def test_skew_is_the_share_beyond_equal_classes() -> None:
    assert skew_of([5, 5]) == 0.0
    assert skew_of([9, 1]) == pytest.approx(0.4)  # four of ten beyond the five of an equal class
    assert skew_of([10, 0, 0, 0]) == pytest.approx(0.75)
    assert skew_of([]) == 0.0


def test_the_interval_is_that_of_the_two_way_table() -> None:
    pilot = {"full-short": {0: 1.0, 1: 4.0}, "random": {0: 2.0, 1: 3.0}}
    # rests are +-0.5, so s^2 = 1 / 1, and t(0.975, 1) = 12.706
    assert half_width(pilot) == pytest.approx(12.7062 * math.sqrt(2 / 2), rel=1e-4)
    assert half_width({"full-short": {0: 1.0}, "random": {0: 2.0}}) is None
    assert half_width({}) is None
    found = differences(pilot)["random"]
    assert (found.mean, found.count) == (0.0, 2)
    assert differences({"random": {0: 1.0}}) == {}


def test_data_speak_for_label_rules() -> None:
    assert advise(Facts(num_classes=10, skew=0.44), {}).method == "label-aware"
    doubted = advise(Facts(num_classes=10, skew=0.0, doubted=0.4), TIED)
    assert (doubted.method, doubted.reason) == ("label-aware", "about 40% of the labels look wrong")
    strict = Thresholds(skew=0.5, doubted=0.5)
    assert advise(Facts(num_classes=10, skew=0.44, doubted=0.4), TIED, strict).method is None


def test_a_pilot_that_contradicts_the_data_leaves_it_open() -> None:
    harmed = changed(TIED, label_aware=-20.0, random=0.0, data_agent=0.0)
    found = advise(Facts(num_classes=10, skew=0.44), harmed)
    assert found.method is None
    assert found.reason.endswith("but label-aware was worse in the pilot")


def test_a_pilot_decides_only_beyond_its_intervals() -> None:
    tied = advise(EQUAL, TIED)
    assert tied.method is None
    assert tied.reason == (
        "classes are about equal and few labels look wrong (5%), and the pilot's intervals overlap"
    )
    clear = changed(TIED, data_agent=9.0)
    assert advise(EQUAL, clear).method == "data-agent"
    assert advise(EQUAL, changed(clear, random=8.8)).method is None  # two that are as good
    worse = changed(TIED, random=-9.0, label_aware=-8.0, data_agent=-7.0)
    assert advise(EQUAL, worse).method == "full-short"


def test_without_labels_or_intervals_nothing_is_told() -> None:
    bare = Facts(num_classes=0, skew=0.0)
    assert advise(bare, {}).reason == "nothing known of the data speaks for a method"
    single = {method: {0: by_seed[0]} for method, by_seed in changed(TIED, random=30.0).items()}
    found = advise(EQUAL, single)
    assert found.method is None
    assert found.reason.endswith("and one seed has no interval")
