"""What is worth a look, from numbers of samples made by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from data_agent.errors import InputError
from data_agent_lab.auditing.duplicates import Group
from data_agent_lab.auditing.findings import confusions, likely_wrong, never_learned, redundant
from data_agent_lab.auditing.numbers import numbers_of

NAMES = ("cat", "dog", "owl")
COLUMNS = {
    "index": np.array([10, 11, 12, 13, 14, 15]),
    "visits": np.array([4, 4, 4, 0, 2, 4]),
    "loss": np.array([0.1, 3.0, 1.0, math.nan, 5.0, 0.2]),
    "mean_loss": np.array([0.2, 4.0, 2.0, math.nan, 6.0, 0.3]),
    "mean_probability": np.array([0.9, 0.1, 0.3, math.nan, 0.05, 0.8]),
    "margin": np.array([0.8, -0.7, -0.2, math.nan, -0.9, 0.7]),
    "label": np.array([0, 0, 1, -1, 1, 2]),
    "suggested_label": np.array([0, 1, 2, -1, 2, 2]),
}


def alike(*members):
    """A group in which all are alike to each other."""
    return Group(np.array(members), np.array(members))


def numbers(**changed):
    return numbers_of({**COLUMNS, **changed}, NAMES)


def test_wrong_labels_are_the_most_suspicious_where_another_class_was_believed():
    found, index, _ = likely_wrong(numbers(), budget=2)
    assert index.tolist() == [14, 11, 12]  # one more than the budget allows
    assert [finding.index for finding in found] == [14, 11]
    assert [finding.rank for finding in found] == [0, 1]
    assert (found[1].label, found[1].suggested) == ("cat", "dog")
    assert found[1].score == pytest.approx(0.7)  # fourth of five by every rank
    assert "dog was believed instead (margin -0.70), at a mean loss of 4.00 where 2.10" in (
        found[1].reason
    )
    assert [finding.index for finding in likely_wrong(numbers(), budget=9).findings] == [14, 11, 12]


def test_the_highest_mean_loss_is_not_first_where_margin_and_last_loss_speak_against_it():
    mean_loss = np.array([0.2, 6.1, 2.0, math.nan, 6.0, 0.3])
    found = likely_wrong(numbers(mean_loss=mean_loss), 2).findings
    assert [finding.index for finding in found] == [14, 11]


def test_a_copy_with_another_label_is_a_reason():
    groups = [alike(1, 2, 4)]
    first, second, _ = likely_wrong(numbers(), 9, groups).findings
    assert "near-duplicates" not in first.reason  # two of three are dogs
    assert second.reason.endswith("; near-duplicates are dog")


def test_never_learned_costs_more_than_guessing_at_the_last_of_several_visits():
    assert [finding.index for finding in never_learned(numbers(), 9).findings] == [
        11
    ]  # log 3 is 1.10
    often = numbers(visits=np.full(6, 3))
    assert [finding.index for finding in never_learned(often, 9).findings] == [14, 11]
    (first,), index, _ = never_learned(often, 1)
    assert first.index == 14
    assert index.tolist() == [14, 11]


def test_of_near_duplicates_the_one_of_lowest_mean_loss_stays():
    groups = [alike(0, 5), alike(1, 2, 4)]
    found = redundant(numbers(), 9, groups).findings
    assert [(f.index, f.same_as) for f in found] == [(11, 12), (14, 12), (15, 10)]
    few, index, _ = redundant(numbers(), 2, groups)
    assert [finding.index for finding in few] == [11, 14]
    assert index.tolist() == [11, 14, 15]
    assert not len(redundant(numbers(), 9, []).ranked)


def test_of_near_duplicates_one_stays_that_all_others_are_alike_to():
    chain = Group(np.array([0, 1, 5]), np.array([1]))  # the ends 0 and 5 differ
    found = redundant(numbers(), 9, [chain]).findings
    assert [(f.index, f.same_as) for f in found] == [(10, 11), (15, 11)]


def test_of_near_duplicates_the_trusted_one_stays_and_its_copy_goes():
    found = redundant(numbers(trusted=np.array([0, 0, 0, 0, 1, 0])), 9, [alike(1, 2, 4)]).findings
    assert [(f.index, f.same_as) for f in found] == [(12, 14), (11, 14)]


def test_confusions_count_samples_and_say_which_share_of_the_class_they_are():
    found = confusions(numbers())
    assert [(c.label, c.believed, c.count, c.share) for c in found] == [
        ("dog", "owl", 2, 1.0),
        ("cat", "dog", 1, 0.5),
    ]


def test_without_labels_there_is_nothing_to_say_of_them():
    plain = numbers_of({"mean_loss": COLUMNS["mean_loss"]})
    none = numbers(label=np.full(6, -1), suggested_label=np.full(6, -1))
    for unlabelled in (plain, none):
        assert likely_wrong(unlabelled, 9).not_sought == (
            "Wrong labels were not looked for: samples have no class."
        )
        assert "not looked for" in never_learned(unlabelled, 9).not_sought
        assert not confusions(unlabelled)
    assert redundant(plain, 9, [alike(0, 1)]).findings[0].index == 1  # rows are samples


def test_what_a_column_is_missing_for_is_not_looked_for():
    labelled = numbers_of({"mean_loss": np.ones(2), "label": np.array([0, 1])})
    assert likely_wrong(labelled, 9).not_sought.endswith("the columns margin and suggested_label.")
    assert never_learned(labelled, 9).not_sought.endswith("takes the column loss.")
    assert redundant(labelled, 9, None).not_sought == "Near-duplicates were not looked for."


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        ({"score": np.ones(3)}, "have the columns score; an audit needs mean_loss"),
        ({"index": np.array([1, 1]), "loss": np.ones(2)}, "names a sample twice"),
    ],
)
def test_what_is_missing_is_named(columns, text):
    with pytest.raises(InputError, match=text):
        numbers_of(columns)
