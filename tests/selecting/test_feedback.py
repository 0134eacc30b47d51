"""Shapes are contracts at the door."""

import pytest
import torch

from data_agent import Feedback
from data_agent.errors import InputError

INDEX = torch.arange(4)
LOSSES = torch.ones(4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"losses": torch.tensor(1.0)}, r'one number \(shape \[\]\).*reduction="none"'),
        ({"losses": torch.ones(4, 3)}, r"shape \[4, 3\]; expected \[B\]"),
        ({"losses": torch.ones(0), "index": INDEX[:0]}, "came empty"),
        ({"losses": torch.ones(4).long()}, "expected a floating-point dtype"),
        ({"losses": [1.0] * 4}, "got list"),
        ({"index": INDEX.float()}, r"came as torch.float32.*3001 in bfloat16 is 3008"),
        ({"index": INDEX.int()}, "came as torch.int32; expected torch.int64"),
        ({"index": INDEX[:3]}, r"shape \[3\] for 4 losses"),
        ({"index": [0, 1, 2, 3]}, "selection_loader"),
        ({"logits": torch.ones(4, 7, 10)}, "a mask is needed to know them"),
        ({"logits": torch.ones(3, 2)}, r"shape \[3, 2\] for 4 losses"),
        ({"features": torch.ones(4, 2, 3, 3)}, "pool images over space"),
        ({"features": torch.ones(4)}, r"expected \[4, width\]"),
        ({"labels": torch.ones(4)}, "labels came as torch.float32; expected an integer dtype"),
        ({"uncertainty": torch.ones(4, 1)}, r"uncertainty came with shape \[4, 1\]"),
        ({"signals": {"age": torch.ones(5)}}, r"signal 'age' came with shape \[5\]"),
    ],
)
def test_a_wrong_tensor_is_named_with_what_was_expected(arguments, message):
    with pytest.raises(InputError, match=message):
        Feedback(**{"index": INDEX, "losses": LOSSES, **arguments})


def test_feedback_is_detached():
    losses = torch.ones(4, requires_grad=True) * 2
    feedback = Feedback(INDEX, losses, torch.ones(4, 2, requires_grad=True) * 1)
    assert not feedback.losses.requires_grad
    assert not feedback.logits.requires_grad
    assert losses.requires_grad  # the caller's tensor is as it was


def test_other_columns_are_checked_as_the_first_ones_were():
    feedback = Feedback(INDEX, LOSSES, labels=INDEX, signals={"own": LOSSES})
    changed = feedback.having(features=torch.ones(4, 2, requires_grad=True), logits=torch.ones(4))
    assert changed.features is not None
    assert not changed.features.requires_grad
    assert changed.logits is not None
    assert changed.logits.shape == (4, 2)
    assert changed.labels is INDEX
    assert changed.signals == {"own": LOSSES}
    assert feedback.features is None
    with pytest.raises(InputError, match=r"features came with shape \[3, 2\] for 4 losses"):
        feedback.having(features=torch.ones(3, 2))
    with pytest.raises(InputError, match="features came as torch"):
        feedback.having(features=torch.ones(4, 2).long())
