"""What all labels together show, by hand."""

import pytest
import torch

from data_agent.labels.evidence import Evidence, evidence_of


def test_the_share_of_wrong_labels_by_hand():
    # Of ten labels two come last to a half and one alone: (2 / 2 + 1) / 10 = 0.2, times 3 is 0.6.
    num_of_signs = torch.tensor([[1, 0, 1], [6, 2, 0]])
    assert evidence_of(num_of_signs, 4, 1.0) == pytest.approx((0.6, 3, 0.8))
    assert evidence_of(num_of_signs, 4, 0.5) == pytest.approx((0.5, 3, 0.8))
    assert evidence_of(num_of_signs, 0, 1.0) is None  # no logits came
    assert evidence_of(torch.zeros_like(num_of_signs), 4, 1.0) is None


def test_a_guess_of_two_classes_is_right_in_a_half():
    # Of ten classes 0.1, of two 0.5, is a guess. Two fifths of the 0.8 that are believed are 0.32,
    # and beyond a guess 0.1 + 0.9 * 0.32 = 0.388 and 0.5 + 0.5 * 0.32 = 0.66.
    for first, near, guess_of_ten, guess_of_two in (
        (0.31, True, True, True),
        (0.38, False, True, True),
        (0.39, False, False, True),
        (0.67, False, False, False),
    ):
        evidence = Evidence(0.2, 40, first)
        assert evidence.is_near_chance(0.4) == near
        assert evidence.is_near_guessing(0.4, 10) == guess_of_ten
        assert evidence.is_near_guessing(0.4, 2) == guess_of_two
