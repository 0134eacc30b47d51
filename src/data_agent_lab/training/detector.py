"""A compact detector that is trained from scratch, and the loss of each image.

Objects are peaks of class maps at a quarter of the image's size, and a map of distances says how
far a box reaches from each place. As TTFNet (Liu et al. 2020, arXiv 1909.00700): Gaussians whose
widths follow the box are what class maps are to show, with the focal loss of CornerNet (Law and
Deng 2018), and teach the distances, with the loss of GIoU (Rezatofighi et al. 2019). Unlike there
both are normalised image by image, so that a batch's loss is the mean of its images' losses.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_agent_lab.data.boxes import Objects
from data_agent_lab.training.models import Block, conv_norm

STRIDE = 4  # pixels of the image between neighbouring places
_SPREAD = 0.54 / 6  # standard deviation of a box's Gaussian, of its sides
_BOX_WEIGHT = 5.0
_RARE = 0.01  # what class maps say before they have learned: most places are no object's centre
_MOST_REACH = 6.0  # log of a distance in strides; more is no box


class Outputs(NamedTuple):
    """What the detector says of a batch of images; h and w are a quarter of their sides.

    Args:
        logits: `[B, C, h, w]`, of the chance that an object of the class has its centre there.
        reach: `[B, 4, h, w]`, log distances in strides to the left, upper, right and lower side.
        features: `[B, D]`, the deepest features of the backbone, averaged over the image.
    """

    logits: Tensor
    reach: Tensor
    features: Tensor


class Detector(nn.Module):
    """Images `[B, channels, H, W]`, sides divisible by 16, to `Outputs`.

    Four stages halve the image; the last three, brought to one width, are added up from the deepest
    on (Lin et al. 2017, feature pyramids).
    """

    def __init__(self, in_channels: int, num_classes: int, *, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_norm(in_channels, width, stride=2), nn.ReLU())
        widths = [width * 2**stage for stage in range(4)]
        self.stages = nn.ModuleList(
            Block(before, after, stride=2, expansion=1) for before, after in pairwise(widths)
        )
        self.laterals = nn.ModuleList(nn.Conv2d(w, 4 * width, 1) for w in widths[1:])
        self.head = nn.Sequential(conv_norm(4 * width, 4 * width), nn.ReLU())
        self.classes = nn.Conv2d(4 * width, num_classes, 1)
        self.reach = nn.Conv2d(4 * width, 4, 1)
        nn.init.constant_(self.classes.bias, math.log(_RARE / (1 - _RARE)))  # pyright: ignore

    def forward(self, images: Tensor) -> Outputs:
        """What it says of images."""
        stages: list[Tensor] = []
        hidden = self.stem(images)
        for stage in self.stages:
            stages.append(hidden := stage(hidden))
        merged = self.laterals[-1](hidden)
        for lateral, stage in zip(reversed(self.laterals[:-1]), reversed(stages[:-1]), strict=True):
            merged = lateral(stage) + F.interpolate(merged, scale_factor=2.0, mode="nearest")
        merged = self.head(merged)
        return Outputs(self.classes(merged), self.reach(merged), hidden.mean((2, 3)))


def image_losses(outputs: Outputs, objects: Objects) -> Tensor:
    """The loss of each image, float32 `[B]`; of one without objects what its class maps cost."""
    logits, spread = outputs.logits.float(), gaussians(objects, outputs.logits.shape[-2:])
    peaks = class_maps(spread, objects.classes, num_classes=logits.shape[1])
    num_objects = (objects.classes >= 0).sum(1).clamp(min=1)
    focal = focal_terms(logits, peaks).sum((1, 2, 3)) / num_objects
    return focal + _BOX_WEIGHT * _box_losses(outputs.reach.float(), objects, spread)


def gaussians(objects: Objects, size: torch.Size) -> Tensor:
    """float32 `[B, M, h, w]`: how close each place is to an object's centre; 0 without object.

    It is 1 at the place that holds the centre, and smaller with the distance over the box's sides.
    """
    boxes = objects.boxes / STRIDE
    sides = boxes[..., 2:] - boxes[..., :2]
    middle = ((boxes[..., :2] + boxes[..., 2:]) / 2).floor()
    exponent = torch.zeros(*objects.classes.shape, *size, device=boxes.device)
    for axis, count in ((0, size[1]), (1, size[0])):
        place = torch.arange(count, device=boxes.device)
        offset = (place - middle[..., axis, None]) / (_SPREAD * sides[..., axis, None]).clamp(1e-6)
        exponent = exponent + (offset**2).unsqueeze(2 + axis)
    return (-exponent / 2).exp() * (objects.classes >= 0)[..., None, None]


def class_maps(spread: Tensor, classes: Tensor, *, num_classes: int) -> Tensor:
    """float32 `[B, C, h, w]`: by class the closest of its objects, of Gaussians `[B, M, h, w]`."""
    maps = spread.new_zeros(len(spread), num_classes, *spread.shape[2:])
    return maps.scatter_reduce(
        1, classes.clamp(min=0)[..., None, None].expand_as(spread), spread, "amax"
    )


def focal_terms(logits: Tensor, peaks: Tensor) -> Tensor:
    """CornerNet's equation 1, term by term: alpha 2, beta 4.

    `-(1 - p)^2 log p` where the target is 1, else `-(1 - target)^4 p^2 log(1 - p)`.
    """
    p = logits.sigmoid()
    is_centre = -((1 - p) ** 2) * F.logsigmoid(logits)
    is_other = -((1 - peaks) ** 4) * p**2 * F.logsigmoid(-logits)
    return torch.where(peaks == 1, is_centre, is_other)


def _box_losses(reach: Tensor, objects: Objects, spread: Tensor) -> Tensor:
    """Each image's mean over its objects of 1 - GIoU, weighed by closeness to the centre: `[B]`."""
    boxes, is_object = objects.boxes, objects.classes >= 0
    area = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    # A place teaches the smallest of the boxes that it is close to the centre of.
    area = area.masked_fill(~is_object, torch.inf)[..., None, None].expand_as(spread)
    size, owner = area.masked_fill(spread < 0.01, torch.inf).min(1, keepdim=True)
    weight = spread.gather(1, owner) * size.isfinite()
    of_object = torch.zeros_like(spread).scatter(1, owner, weight)
    of_object = of_object / of_object.sum((2, 3), keepdim=True).clamp(min=1e-6)
    wanted = boxes.gather(1, owner.flatten(1).unsqueeze(2).expand(-1, -1, 4))
    loss = 1 - giou(boxes_of(reach).flatten(2).transpose(1, 2), wanted)
    return (of_object.sum(1).flatten(1) * loss).sum(1) / is_object.sum(1).clamp(min=1)


def boxes_of(reach: Tensor) -> Tensor:
    """Boxes in pixels, float32 `[B, 4, h, w]`, of log distances of that shape."""
    distance = STRIDE * reach.float().clamp(max=_MOST_REACH).exp()
    height, width = reach.shape[-2:]
    x = STRIDE * (torch.arange(width, device=reach.device) + 0.5)
    y = STRIDE * (torch.arange(height, device=reach.device) + 0.5).unsqueeze(1)
    left, upper, right, lower = distance.unbind(1)
    return torch.stack([x - left, y - upper, x + right, y + lower], 1)


def giou(one: Tensor, other: Tensor) -> Tensor:
    """Generalised intersection over union of pairs of boxes `[..., 4]`, in (-1, 1]."""
    area, other_area = ((b[..., 2:] - b[..., :2]).prod(-1) for b in (one, other))
    inner = torch.minimum(one[..., 2:], other[..., 2:]) - torch.maximum(
        one[..., :2], other[..., :2]
    )
    outer = torch.maximum(one[..., 2:], other[..., 2:]) - torch.minimum(
        one[..., :2], other[..., :2]
    )
    shared, hull = inner.clamp(min=0).prod(-1), outer.prod(-1)
    union = area + other_area - shared
    return shared / union.clamp(min=1e-6) - (hull - union) / hull.clamp(min=1e-6)


def uncertainty_of(logits: Tensor) -> Tensor:
    """How unsure the detector is of what it finds, float32 `[B]` in [0, 1].

    The mean entropy of the chances p at the peaks of class maps, in units of a fair coin and
    weighed by p: places that hold nothing for sure do not count.
    """
    p = peaks_of(logits.float().sigmoid()).flatten(1)
    entropy = (torch.special.entr(p) + torch.special.entr(1 - p)) / math.log(2)
    return ((p * entropy).sum(1) / p.sum(1).clamp(min=1e-6)).clamp(0, 1)


def peaks_of(p: Tensor) -> Tensor:
    """Chances `[B, C, h, w]` where no neighbour has a higher one, else 0."""
    return p * (p == F.max_pool2d(p, 3, stride=1, padding=1))


class Found(NamedTuple):
    """Detections, K in each image, the surest first.

    Args:
        boxes: float32 `[B, K, 4]` in pixels, as `Objects`.
        classes: int64 `[B, K]`.
        scores: float32 `[B, K]` in [0, 1].
    """

    boxes: Tensor
    classes: Tensor
    scores: Tensor


def detect(outputs: Outputs, *, count: int = 100) -> Found:
    """The `count` highest peaks of class maps, with their boxes."""
    peaks = peaks_of(outputs.logits.float().sigmoid())
    num_places = peaks.shape[2:].numel()
    scores, at = peaks.flatten(1).topk(min(count, peaks.shape[1] * num_places))
    boxes = boxes_of(outputs.reach).flatten(2).transpose(1, 2)
    boxes = boxes.gather(1, (at % num_places).unsqueeze(2).expand(-1, -1, 4))
    return Found(boxes, at // num_places, scores)
