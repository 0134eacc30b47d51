"""What one visit shows of a row, against numbers computed by hand."""

import math

import pytest
import torch

from data_agent.selecting.feedback import Feedback
from data_agent.trusted.signals import NO_CLASS, row_classes, row_signals

LOGITS = torch.tensor([[math.log(4.0), math.log(2.0), math.log(2.0)], [0.0, 0.0, 0.0]])


def feedback(**parts):
    return Feedback(torch.arange(2), torch.tensor([0.5, 2.0]), **parts)


def test_signals_of_a_row_with_a_class():
    shown = row_signals(feedback(logits=LOGITS, labels=torch.tensor([1, 0])))
    entropy = (0.5 * math.log(2) + 2 * 0.25 * math.log(4)) / math.log(3)
    first = [0.5, entropy, 0.5, 0.25, -math.log(2.0), 0.5]  # one of two others is likelier
    second = [2.0, 1.0, 1 / 3, 1 / 3, 0.0, 0.0]
    torch.testing.assert_close(shown, torch.tensor([first, second]), rtol=0, atol=1e-6)


def test_signals_without_labels_without_logits_and_with_an_uncertainty_of_its_own():
    assert row_signals(feedback(logits=LOGITS)).shape == (2, 3)
    assert row_signals(feedback()).tolist() == [[0.5], [2.0]]
    own = feedback(uncertainty=torch.tensor([0.25, 0.75]))
    assert row_signals(own).tolist() == [[0.5, 0.25], [2.0, 0.75]]
    assert row_signals(own.having(logits=LOGITS)).tolist() == row_signals(own).tolist()
    with_labels = own.having(logits=LOGITS, labels=torch.tensor([1, 0]))
    assert row_signals(with_labels).shape == (2, 6)


@pytest.mark.parametrize("label", [-100, 3, 255])
def test_a_label_that_is_no_class_tells_nothing(label):
    rows = feedback(logits=LOGITS, labels=torch.tensor([1, label]))
    assert row_classes(rows).tolist() == [1, NO_CLASS]
    shown = row_signals(rows)
    assert shown.isfinite().all()
    assert shown[1, 3:].tolist() == [0, 0, 0]


def test_half_precision_is_widened():
    shown = row_signals(feedback(logits=LOGITS.bfloat16(), labels=torch.tensor([1, 0])))
    assert shown.dtype == torch.float32
