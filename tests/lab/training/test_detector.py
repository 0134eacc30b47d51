"""The detector's formulas by hand, and that a batch's loss is that of its images."""

from __future__ import annotations

import math

import pytest
import torch
from shapes import HEIGHT, MOST, WIDTH, objects_of, scenes

from data_agent_lab.data.boxes import Objects
from data_agent_lab.training.box_batches import flipped, jittered
from data_agent_lab.training.detector import (
    Detector,
    Outputs,
    boxes_of,
    class_maps,
    detect,
    focal_terms,
    gaussians,
    giou,
    image_losses,
    uncertainty_of,
)
from data_agent_lab.training.precision import Precision, average_precision, overlaps, sufficiency

OBJECTS = objects_of(scenes(7))  # the last image is empty


def outputs_of(count: int) -> Outputs:
    torch.manual_seed(0)
    model = Detector(3, 2, width=4).eval()
    return model(torch.randn(count, 3, HEIGHT, WIDTH))


def one_object(box: list[float], kind: int = 0) -> Objects:
    return Objects(torch.tensor([[box]]), torch.tensor([[kind]]))


def test_gaussians_by_hand() -> None:
    # In strides of 4 pixels: the centre (2.5, 1.5) is in place (2, 1); sides are 3 and 2, and
    # sigmas 0.54 / 6 of them, 0.27 and 0.18.
    spread = gaussians(one_object([4, 2, 16, 10]), torch.Size([4, 6]))
    assert spread.shape == (1, 1, 4, 6)
    assert spread[0, 0, 1, 2] == 1
    assert float(spread[0, 0, 1, 3]) == pytest.approx(math.exp(-0.5 / 0.27**2), rel=1e-4)
    assert float(spread[0, 0, 2, 2]) == pytest.approx(math.exp(-0.5 / 0.18**2), rel=1e-4)
    nothing = gaussians(one_object([0, 0, 0, 0], kind=-1), torch.Size([4, 6]))
    assert not nothing.any()


def test_class_maps_keep_the_closest_object_of_each_class() -> None:
    spread = torch.tensor([[[[0.2, 0.9]], [[0.5, 0.1]], [[0.7, 0.7]]]])  # three objects, two places
    maps = class_maps(spread, torch.tensor([[0, 0, 1]]), num_classes=3)
    assert maps[0, :, 0].tolist() == [
        pytest.approx([0.5, 0.9]),
        pytest.approx([0.7, 0.7]),
        [0.0, 0.0],
    ]


def test_focal_terms_by_hand() -> None:
    logits = torch.tensor([0.0, math.log(3), 0.0])  # p of 0.5, 0.75, 0.5
    found = focal_terms(logits, torch.tensor([1.0, 1.0, 0.5]))
    # -(1/2)^2 log(1/2); -(1/4)^2 log(3/4); -(1/2)^4 (1/2)^2 log(1/2)
    expected = [0.25 * math.log(2), math.log(4 / 3) / 16, math.log(2) / 64]
    assert found.tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ([0, 0, 2, 2], [0, 0, 2, 2], 1.0),
        ([0, 0, 2, 2], [1, 0, 3, 2], 1 / 3),  # shared 2 of 6, the hull is the union
        ([0, 0, 1, 1], [2, 0, 3, 1], -1 / 3),  # nothing shared, a hull of 3 around 2
    ],
)
def test_giou_by_hand(one: list[float], other: list[float], expected: float) -> None:
    pair = [torch.tensor(box, dtype=torch.float32) for box in (one, other)]
    assert float(giou(*pair)) == pytest.approx(expected)


def test_boxes_reach_from_the_middle_of_their_place() -> None:
    reach = torch.zeros(1, 4, 2, 3)  # a stride to each side
    boxes = boxes_of(reach)
    assert boxes[0, :, 1, 2].tolist() == [6.0, 2.0, 14.0, 10.0]  # around (10, 6)


def test_a_batch_s_losses_are_those_of_its_images_alone() -> None:
    outputs = outputs_of(len(OBJECTS.classes))
    together = image_losses(outputs, OBJECTS)
    for row in range(len(together)):
        rows = torch.tensor([row])
        alone = image_losses(Outputs(*(part[rows] for part in outputs)), OBJECTS.at(rows))
        torch.testing.assert_close(alone[0], together[row])
    assert together.shape == (7,)


def test_what_is_padded_changes_no_loss() -> None:
    outputs = outputs_of(7)
    wide = objects_of(scenes(7), size=MOST + 4)
    torch.testing.assert_close(image_losses(outputs, wide), image_losses(outputs, OBJECTS))


def test_an_empty_image_costs_what_its_class_maps_say() -> None:
    outputs = outputs_of(7)
    p = outputs.logits[6].sigmoid()
    assert float(image_losses(outputs, OBJECTS)[6].detach()) == pytest.approx(
        float(-(p**2 * torch.log1p(-p)).sum().detach()), rel=1e-4
    )
    image_losses(outputs, OBJECTS).sum().backward()  # and has a gradient that is finite


def test_the_loss_falls_where_the_detector_says_what_there_is() -> None:
    objects = OBJECTS.at(torch.tensor([2]))  # three objects
    outputs = perfect(objects)
    assert float(image_losses(outputs, objects)) < 0.01
    worse = outputs._replace(reach=outputs.reach + 0.7)
    assert float(image_losses(worse, objects)) > 1


def perfect(objects: Objects) -> Outputs:
    """What a detector would say that knows the objects."""
    size = torch.Size([HEIGHT // 4, WIDTH // 4])
    spread = gaussians(objects, size)
    peaks = class_maps(spread, objects.classes, num_classes=2)
    owner = spread.argmax(1, keepdim=True).flatten(1).unsqueeze(2).expand(-1, -1, 4)
    sides = objects.boxes.gather(1, owner).transpose(1, 2).unflatten(2, size)
    middle = boxes_of(torch.full_like(sides, -math.inf))  # of no extent
    signs = torch.tensor([-1, -1, 1, 1]).view(1, 4, 1, 1)
    reach = ((sides - middle) * signs / 4).clamp(min=1e-3).log()
    return Outputs(torch.where(peaks == 1, 9.0, -9.0), reach, torch.zeros(len(sides), 1))


def test_what_a_perfect_detector_finds_is_what_there_is() -> None:
    objects = OBJECTS
    found = detect(perfect(objects), count=MOST)
    for row in range(len(objects.classes)):
        own = objects.boxes[row][objects.classes[row] >= 0]
        seen = found.boxes[row][found.scores[row] > 0.5]
        assert len(own) == len(seen)
        if len(own):
            assert overlaps(own, seen).amax(1).tolist() == pytest.approx([1.0] * len(own), abs=1e-3)
    precision = average_precision(objects, found, num_classes=2)
    assert precision == Precision(pytest.approx(100), pytest.approx(100), [pytest.approx(100)] * 2)
    assert sufficiency(objects, found).tolist() == [1.0] * 7


def test_a_rank_without_images_finds_nothing() -> None:
    outputs = outputs_of(0)
    assert detect(outputs, count=5).boxes.shape == (0, 5, 4)
    assert image_losses(outputs, OBJECTS.at(torch.arange(0))).shape == (0,)
    assert uncertainty_of(outputs.logits).shape == (0,)


def test_uncertainty_is_the_entropy_of_what_is_found() -> None:
    quiet, unsure = torch.full((1, 2, 4, 4), -12.0), torch.full((1, 2, 4, 4), -12.0)
    unsure[0, 0, 1, 1] = 0.0  # a fair coin
    sure = quiet.clone()
    sure[0, 0, 1, 1] = 8.0
    values = torch.cat([uncertainty_of(logits) for logits in (unsure, sure, quiet)])
    assert float(values[0]) == pytest.approx(1.0, abs=1e-3)
    assert float(values[1]) < 0.01
    assert ((values >= 0) & (values <= 1)).all()


def test_mirrored_twice_is_as_before_and_boxes_go_with_their_pixels() -> None:
    images = torch.arange(2 * 3 * 4 * 6).view(2, 3, 4, 6)
    objects = Objects(torch.tensor([[[1.0, 0, 3, 2]]] * 2), torch.zeros(2, 1).long())
    mask = torch.tensor([True, False])
    once, moved = flipped(images, objects, mask)
    assert moved.boxes[:, 0].tolist() == [[3.0, 0, 5, 2], [1.0, 0, 3, 2]]
    assert torch.equal(once[0, :, :, 3:5], images[0, :, :, 1:3].flip(2))
    assert torch.equal(once[1], images[1])
    again, back = flipped(once, moved, mask)
    assert torch.equal(again, images)
    assert torch.equal(back.boxes, objects.boxes)


def test_jitter_stays_within_its_limits() -> None:
    images = torch.full((64, 1, 2, 2), 100.0)
    values = jittered(images, torch.randint(1 << 40, (64,)))[:, 0, 0, 0]
    assert 100 * 0.8 - 20 <= float(values.min()) < float(values.max()) <= 100 * 1.2 + 20
    assert len(values.unique()) > 50
