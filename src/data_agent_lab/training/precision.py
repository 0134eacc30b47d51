"""How good detections are: mean average precision of a data set, precision and recall of an image.

Both go by `Objects` and `Found` on one canvas.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from faster_coco_eval import COCO, COCOeval_faster
from torch import Tensor

from data_agent_lab.data.boxes import Objects
from data_agent_lab.training.detector import Found

FOUND_IOU = 0.5  # a detection finds an object of its class that it overlaps by so much
SURE = 0.25  # detections below this score count for nothing in an image's precision and recall
_MOST_FOUND = 100  # detections of an image that count, as COCO has it

logging.getLogger("faster_coco_eval").setLevel(logging.WARNING)  # it tells of each of its steps


class Precision(NamedTuple):
    """Average precision in percent, as COCO defines it, over the classes that occur.

    Args:
        mean: mAP, over the thresholds of overlap 0.50, 0.55, ..., 0.95.
        at_half: mAP50, at the threshold 0.50.
        by_class: of each class its part of `mean`; None where no image has one.

    The means are NaN where no image has any object.
    """

    mean: float
    at_half: float
    by_class: list[float | None]


def average_precision(objects: Objects, found: Found, *, num_classes: int) -> Precision:
    """How precise detections of images are.

    Args:
        objects: what there is in N images.
        found: what was detected in each of them.
        num_classes: C.
    """
    truth = COCO(_truth(objects, num_classes))
    told = COCOeval_faster(truth, truth.loadRes(_rows(found)), "bbox")
    told.params.maxDets = [1, 10, _MOST_FOUND]
    told.evaluate()
    told.accumulate()
    # [thresholds, recalls, classes, sizes, limits]; -1 where there is no object of a class
    precision = np.asarray(told.eval["precision"])[:, :, :, 0, -1]
    occurs, by_class = precision[0, 0] > -1, 100 * precision.mean((0, 1))
    if not occurs.any():
        return Precision(math.nan, math.nan, [None] * num_classes)
    return Precision(
        mean=float(by_class[occurs].mean()),
        at_half=float(100 * precision[0][:, occurs].mean()),
        by_class=[float(p) if o else None for p, o in zip(by_class, occurs, strict=True)],
    )


def _truth(objects: Objects, num_classes: int) -> dict[str, Any]:
    """As COCO's JSON."""
    things: list[dict[str, Any]] = []
    for image, place in (objects.classes >= 0).nonzero().tolist():
        left, upper, right, lower = objects.boxes[image, place].tolist()
        things.append(
            {
                "id": len(things) + 1,
                "image_id": image,
                "category_id": int(objects.classes[image, place]),
                "bbox": [left, upper, right - left, lower - upper],
                "area": (right - left) * (lower - upper),
                "iscrowd": 0,
            }
        )
    return {
        "images": [{"id": image} for image in range(len(objects.classes))],
        "categories": [{"id": number, "name": str(number)} for number in range(num_classes)],
        "annotations": things,
    }


def _rows(found: Found) -> np.ndarray:
    """float64 `[N K, 7]`: image, left, upper side, width, height, score, class."""
    images = torch.arange(len(found.scores)).unsqueeze(1).expand_as(found.scores)
    corner, size = found.boxes[..., :2], found.boxes[..., 2:] - found.boxes[..., :2]
    parts = [images[..., None], corner, size, found.scores[..., None], found.classes[..., None]]
    return torch.cat([part.double() for part in parts], -1).flatten(0, 1).numpy()


def sufficiency(objects: Objects, found: Found) -> Tensor:
    """The lower of precision and recall of each image, float32 `[N]` in [0, 1].

    Detections of a score of 0.25 or more are gone through, the surest first; each finds the object
    of its class that it overlaps most, by half or more, and that none before it found. Where there
    are no detections all of them are right, and where there are no objects all are found.
    """
    images = zip(*(part.cpu() for part in (*objects, *found)), strict=True)
    return torch.tensor([_of_image(*image) for image in images])


def _of_image(boxes: Tensor, classes: Tensor, own: Tensor, kinds: Tensor, scores: Tensor) -> float:
    boxes, classes = boxes[classes >= 0], classes[classes >= 0]
    own, kinds = own[scores >= SURE], kinds[scores >= SURE]
    overlap = overlaps(own, boxes) * (kinds[:, None] == classes)
    num_found = _num_found(overlap.tolist())
    return min(num_found / size if size else 1.0 for size in (len(own), len(boxes)))


def _num_found(overlap: Sequence[Sequence[float]]) -> int:
    """How many detections find an object, the rows; an object is found once."""
    taken: set[int] = set()
    for row in overlap:
        free = [place for place in range(len(row)) if place not in taken]
        best = max(free, key=row.__getitem__, default=None)
        if best is not None and row[best] >= FOUND_IOU:
            taken.add(best)
    return len(taken)


def overlaps(one: Tensor, other: Tensor) -> Tensor:
    """Intersection over union of each of boxes `[A, 4]` with each of `[B, 4]`: `[A, B]`."""
    corner = torch.maximum(one[:, None, :2], other[:, :2])
    shared = (torch.minimum(one[:, None, 2:], other[:, 2:]) - corner).clamp(min=0).prod(-1)
    area, other_area = ((b[:, 2:] - b[:, :2]).prod(-1) for b in (one, other))
    return shared / (area[:, None] + other_area - shared).clamp(min=1e-6)
