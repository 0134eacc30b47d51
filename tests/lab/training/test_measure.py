"""How good a model is, in all and by class, and what an epoch's samples were: by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from data_agent.losses import IGNORE_INDEX
from data_agent_lab.training.engine import measure
from data_agent_lab.training.visited import MOST_CLASSES, shares_visited


def test_a_classifier_is_measured_in_all_and_by_class() -> None:
    even = torch.zeros(2, 3)
    right = torch.tensor([[9.0, 0.0, 0.0]])
    batches = [(even, torch.tensor([0, 1])), (right, torch.tensor([0]))]
    found = measure(nn.Linear(1, 1), batches, num_classes=3)
    # of two equal logits the first class is predicted: right, wrong, right
    assert found["accuracy"] == pytest.approx(200 / 3)
    assert found["class_accuracy"] == [100.0, 0.0, None]
    last = math.log(1 + 2 * math.exp(-9))
    assert found["loss"] == pytest.approx((2 * math.log(3) + last) / 3, rel=1e-5)


def test_a_language_model_has_a_perplexity_over_the_labels_that_count() -> None:
    labels = torch.tensor([1, IGNORE_INDEX])
    found = measure(nn.Linear(1, 1), [(torch.zeros(2, 4), labels)], num_classes=0)
    assert found == pytest.approx({"loss": math.log(4), "perplexity": 4.0})


def test_shares_of_an_epochs_samples() -> None:
    labels, true = torch.tensor([0, 0, 1, 2, 2]), torch.tensor([0, 1, 1, 2, -1])
    index = torch.tensor([0, 1, 2, 4])
    trusted = torch.tensor([True, False, True, False, False])
    found = shares_visited(index, labels, true, trusted)
    assert found["classes"] == [0.5, 0.25, 0.25]
    assert (found["wrong_labels"], found["foreign"], found["trusted"]) == (0.25, 0.25, 0.5)


def test_shares_that_say_nothing_are_left_out() -> None:
    labels = torch.arange(MOST_CLASSES + 1)
    assert shares_visited(torch.tensor([0]), labels, labels, None) == {}
