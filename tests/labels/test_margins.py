"""What outputs say about a label, by hand."""

import pytest
import torch

from data_agent.labels.margins import judge

LOGITS = torch.tensor([[2.0, 0.0, -1.0], [2.0, 0.0, -1.0], [2.0, 0.0, -1.0], [0.0, 0.0, 0.0]])
LABELS = torch.tensor([0, 1, 2, 1])


def test_the_margin_is_own_probability_less_the_best_other():
    p = torch.softmax(LOGITS[0], 0)
    expected = torch.stack([p[0] - p[1], p[1] - p[0], p[2] - p[0], torch.tensor(0.0)])
    torch.testing.assert_close(judge(LOGITS, LABELS).margin, expected)


def test_a_label_that_comes_last_shares_that_place_with_its_equals():
    logits = torch.arange(12.0).expand(3, -1)
    assert judge(logits, torch.tensor([11, 1, 0])).last.tolist() == [0, 0, 1]
    assert judge(torch.zeros(1, 12), torch.tensor([5])).last.tolist() == [0]
    tied = torch.tensor([[0.0] * 11 + [1.0]])
    assert judge(tied, torch.tensor([5])).last.tolist() == pytest.approx([1 / 11])


@pytest.mark.parametrize(("share", "num_classes"), [(0.0, 10), (0.3, 10), (0.4, 100)])
def test_the_evidence_estimates_uniform_noise_where_the_model_is_right(share, num_classes):
    draws = torch.Generator().manual_seed(0)
    size = 200_000
    truth = torch.randint(0, num_classes, (size,), generator=draws)
    shift = torch.randint(1, num_classes, (size,), generator=draws)
    is_wrong = torch.rand(size, generator=draws) < share
    labels = torch.where(is_wrong, (truth + shift) % num_classes, truth)
    logits = torch.randn(size, num_classes, generator=draws)
    logits[torch.arange(size), truth] = 9.0
    estimate = (num_classes - 1) * judge(logits, labels).last.mean().item()
    assert estimate == pytest.approx(share, abs=0.02)


def test_the_first_tenth_is_one_place_of_ten_and_two_of_twenty():
    of_ten = judge(torch.arange(10.0).expand(2, -1), torch.tensor([9, 8]))
    assert of_ten.ranks_first.tolist() == [True, False]
    of_twenty = judge(torch.arange(20.0).expand(3, -1), torch.tensor([19, 18, 17]))
    assert of_twenty.ranks_first.tolist() == [True, True, False]
    assert judge(LOGITS, LABELS).ranks_first.tolist() == [True, False, False, True]
