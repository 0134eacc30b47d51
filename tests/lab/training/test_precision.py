"""Mean average precision, precision and recall, against numbers computed by hand."""

from __future__ import annotations

import math

import pytest
import torch

from data_agent_lab.data.boxes import Objects
from data_agent_lab.training.detector import Found
from data_agent_lab.training.precision import average_precision, overlaps, sufficiency

TWO = [[0.0, 0, 10, 10], [20.0, 20, 30, 30]]
FAR = [60.0, 60, 70, 70]
SHIFTED = [22.4, 20, 32.4, 30]  # shares 7.6 of 12.4 with the second object: 0.613


def objects(boxes: list[list[float]], classes: list[int]) -> Objects:
    return Objects(torch.tensor([boxes]), torch.tensor([classes]))


def found(boxes: list[list[float]], scores: list[float], classes: list[int] | None = None) -> Found:
    kinds = classes or [0] * len(boxes)
    return Found(
        torch.tensor([boxes]).view(1, -1, 4), torch.tensor([kinds]), torch.tensor([scores])
    )


def test_average_precision_by_hand() -> None:
    """The surest is right, the next is not, the third overlaps its object by 0.613."""
    told = found([TWO[0], FAR, SHIFTED], [0.9, 0.8, 0.7])
    precision = average_precision(objects(TWO, [0, 0]), told, num_classes=1)
    # At thresholds up to 0.6 precision is 1 up to a recall of a half, 51 of COCO's 101 recalls, and
    # 2/3 at the other 50; at the other 7 of 10 thresholds it is 0 there.
    low, high = (51 + 50 * 2 / 3) / 101, 51 / 101
    assert precision.at_half == pytest.approx(100 * low)
    assert precision.mean == pytest.approx(100 * (3 * low + 7 * high) / 10)
    assert precision.by_class == [pytest.approx(precision.mean)]


def test_classes_are_averaged_over_those_that_occur() -> None:
    told = found([TWO[0], TWO[1]], [0.9, 0.8], [0, 2])
    precision = average_precision(objects(TWO, [0, 1]), told, num_classes=3)
    assert precision.by_class == [pytest.approx(100), 0.0, None]
    assert precision.mean == pytest.approx(50)
    assert precision.at_half == pytest.approx(50)


def test_without_objects_there_is_no_mean() -> None:
    precision = average_precision(objects([FAR], [-1]), found([FAR], [0.9]), num_classes=2)
    assert math.isnan(precision.mean)
    assert math.isnan(precision.at_half)
    assert precision.by_class == [None, None]


def test_objects_of_another_image_are_not_found() -> None:
    both = Objects(torch.tensor([[TWO[0]], [TWO[1]]]), torch.tensor([[0], [0]]))
    told = Found(both.boxes.flip(0), both.classes, torch.tensor([[0.9], [0.8]]))
    assert average_precision(both, told, num_classes=1).at_half == 0


@pytest.mark.parametrize(
    ("boxes", "scores", "classes", "expected"),
    [
        (TWO, [0.9, 0.8], [0, 0], 1.0),
        ([TWO[0]], [0.9], [0], 0.5),  # right, but one of two
        ([*TWO, FAR, FAR], [0.9, 0.8, 0.7, 0.6], [0] * 4, 0.5),  # both, but two of four are right
        ([TWO[0], TWO[0]], [0.9, 0.8], [0, 0], 0.5),  # found twice counts once
        ([TWO[0], SHIFTED], [0.9, 0.24], [0, 0], 0.5),  # not sure enough
        (TWO, [0.9, 0.8], [0, 1], 0.5),  # of another class
        ([FAR], [0.9], [0], 0.0),
        ([], [], [], 0.0),
    ],
)
def test_sufficiency_is_the_lower_of_precision_and_recall(
    boxes: list[list[float]], scores: list[float], classes: list[int], expected: float
) -> None:
    told = found(boxes, scores, classes)
    assert sufficiency(objects(TWO, [0, 0]), told).tolist() == [pytest.approx(expected)]


def test_an_image_without_objects_is_learned_when_nothing_is_found() -> None:
    nothing = objects([[0.0] * 4], [-1])
    assert sufficiency(nothing, found([], [])).tolist() == [1.0]
    assert sufficiency(nothing, found([FAR], [0.9])).tolist() == [0.0]


def test_overlaps_by_hand() -> None:
    one = torch.tensor([[0.0, 0, 2, 2]])
    other = torch.tensor([[1.0, 0, 3, 2], [5.0, 5, 6, 6], [0.0, 0, 2, 2]])
    assert overlaps(one, other).tolist() == [pytest.approx([1 / 3, 0, 1])]
