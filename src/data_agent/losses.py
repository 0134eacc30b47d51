"""Losses of single samples, read from a batch's logits and labels: pure functions.

    samples = token_losses(logits, next_tokens(labels))
    agent.learn(samples.losses, index, uncertainty=samples.uncertainty, features=features)

Everything runs in float32. Logits of sequences and of images are read in chunks, so that no second
`[B, T, V]` tensor is made (without a graph; with one, log-probabilities stay).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from data_agent.errors import InputError

if TYPE_CHECKING:
    from data_agent.detectors import DetectorLosses as DetectorLosses

__all__ = [
    "IGNORED_PIXEL",
    "IGNORE_INDEX",
    "DetectorLosses",
    "SampleLosses",
    "binary_losses",
    "check_decomposition",
    "class_losses",
    "multi_label_losses",
    "next_tokens",
    "pixel_losses",
    "regression_losses",
    "sample_losses",
    "token_losses",
]
IGNORE_INDEX = -100
"""What transformers puts where a label does not count."""
IGNORED_PIXEL = 255
"""And its default of semantic segmentation."""
_OVERRIDE = (
    "Override compute_sample_losses(inputs, outputs) to return them as SampleLosses(sums, counts), "
    "for example by class_losses, binary_losses, regression_losses, token_losses, pixel_losses of "
    "data_agent.losses."
)
_CHUNK_ELEMENTS = 2**24  # logits read at a time: 64 MiB in float32


@dataclass(frozen=True, slots=True, eq=False)
class SampleLosses:
    """One row for each of the `B` samples of a batch.

    A sample's loss is the mean of its terms: one term for a class label, one for each token or
    pixel that counts, one for each output of a multi-label model or a regression. The mean over all
    terms of a batch, `sums.sum() / counts.sum()`, is what torch's own losses return. Of a detector
    a sample's sum is its part of the batch's loss, and its count its share: the quotient is its own
    loss.

    Args:
        sums: float `[B]`, the sum of each sample's terms; with a graph where gradients are enabled.
        counts: `[B]`, how many terms each sample has, or their weight; may be zero.
        logits: float `[B, C]`, or `[B]` or `[B, 1]` of a single logit, where there is one
            distribution a sample.
        labels: int64 `[B]`, where there is one label a sample.
        uncertainty: float `[B]` in [0, 1], where it cannot be read from `logits`.
        features: float `[B, D]`; None takes the input of the model's head.
        mask: bool `[B, T]`, the positions of the head's input that count; None leaves it to the
            attention mask.
        are_parts: whether `sums` add up to the batch's loss as they are, undivided.

    Raises:
        InputError: `sums` and `counts` are not `[B]`.
    """

    sums: Tensor
    counts: Tensor
    logits: Tensor | None = None
    labels: Tensor | None = None
    uncertainty: Tensor | None = None
    features: Tensor | None = None
    mask: Tensor | None = None
    are_parts: bool = False

    def __post_init__(self) -> None:
        if self.sums.ndim != 1 or self.sums.shape != self.counts.shape:
            raise InputError(
                f"sums came with shape {list(self.sums.shape)} and counts with "
                f"{list(self.counts.shape)}; expected [B] both, one row a sample."
            )

    @property
    def losses(self) -> Tensor:
        """Float `[B]`: each sample's mean; zero where nothing counts."""
        return self.sums / self.counts.masked_fill(self.counts == 0, 1)


def sample_losses(
    inputs: Mapping[str, Any],
    outputs: Any,
    *,
    problem: str | None,
    predicts_next: bool,
    ignored_pixel: int = IGNORED_PIXEL,
) -> SampleLosses:
    """The terms of the loss that models of transformers compute from "logits" and "labels".

    Args:
        inputs: has "labels": `[B]`, `[B, C]`, `[B, T]` or `[B, H, W]`; or, made for the loss,
            "shift_labels".
        outputs: has "logits": `[B, C]`, `[B, T, V]`, `[B, C, h, w]`, or `[B]` or `[B, 1]`, one
            logit a sample.
        problem: config.problem_type, which tells regressions and several labels from classes.
        predicts_next: whether position t predicts label t + 1.
        ignored_pixel: config.semantic_loss_ignore_index, the label of pixels that do not count.

    Raises:
        InputError: one of them is missing, or they have shapes that we do not know.
    """
    logits = _tensor(outputs, "logits", "the model's output")
    labels = _tensor(inputs, "labels", "the batch").to(logits.device)
    if logits.ndim == 3 and labels.ndim == 2:
        return token_losses(logits, _targets(inputs, labels, predicts_next=predicts_next))
    if logits.ndim == 4 and labels.ndim == 3:
        return _pixels_of_transformers(logits, labels, ignored_pixel)
    if problem == "regression":
        return regression_losses(logits, labels)
    if problem == "multi_label_classification":
        return multi_label_losses(logits, labels)
    if logits.numel() == labels.numel() == len(logits):
        return binary_losses(logits, labels)
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or labels.is_floating_point():
        raise InputError(
            f"logits came with shape {list(logits.shape)} and labels with {list(labels.shape)}, "
            f"{labels.dtype}; we know [B, C] with [B], [B, T, V] with [B, T], [B, C, h, w] with "
            "[B, H, W], one logit a sample with [B], and what config.problem_type names. Each "
            f"sample's loss cannot be told. {_OVERRIDE}"
        )
    return class_losses(logits, labels)


def class_losses(logits: Tensor, labels: Tensor) -> SampleLosses:
    """Cross entropy of logits `[B, C]` and int64 labels `[B]`; a label of -100 does not count."""
    sums = F.cross_entropy(logits.float(), labels, ignore_index=IGNORE_INDEX, reduction="none")
    return SampleLosses(sums, (labels != IGNORE_INDEX).long(), logits=logits, labels=labels)


def binary_losses(logits: Tensor, labels: Tensor) -> SampleLosses:
    """Binary cross entropy of one logit a sample and labels in [0, 1], both `[B]` or `[B, 1]`."""
    logit, target = logits.flatten(), labels.flatten()
    terms = F.binary_cross_entropy_with_logits(logit.float(), target.float(), reduction="none")
    classes = None if target.is_floating_point() else target.long()
    return SampleLosses(terms, torch.ones_like(terms).long(), logits=logit, labels=classes)


def multi_label_losses(logits: Tensor, labels: Tensor) -> SampleLosses:
    """Binary cross entropy of logits and float labels in [0, 1], both `[B, C]`.

    Uncertainty is the mean entropy of the outputs, in units of one fair coin.
    """
    terms = F.binary_cross_entropy_with_logits(logits.float(), labels.float(), reduction="none")
    with torch.no_grad():
        p = logits.float().sigmoid()
        entropy = (torch.special.entr(p) + torch.special.entr(1 - p)).mean(1) / math.log(2)
    counts = torch.full_like(labels[:, 0], terms.shape[1]).long()
    return SampleLosses(terms.sum(1), counts, uncertainty=entropy.clamp(0, 1))


def regression_losses(outputs: Tensor, labels: Tensor) -> SampleLosses:
    """Squared errors of outputs and labels, `[B]`, `[B, 1]` or `[B, D]`.

    A regression says nothing about its uncertainty: it is zero, so that a reward which weighs its
    signals by their variance is left with the loss.
    """
    size = len(labels)
    terms = (outputs.float().reshape(size, -1) - labels.float().reshape(size, -1)) ** 2
    counts = torch.full((size,), terms.shape[1], device=terms.device)
    return SampleLosses(terms.sum(1), counts, uncertainty=torch.zeros_like(counts).float())


def token_losses(logits: Tensor, targets: Tensor) -> SampleLosses:
    """Cross entropy of logits `[B, T, V]` and int64 targets `[B, T]`, -100 where none counts.

    Uncertainty is the mean entropy over the tokens that count, divided by log V.

    Raises:
        InputError: logits and targets are not about the same positions.
    """
    if logits.shape[:2] != targets.shape:
        raise InputError(
            f"the model's logits are about {list(logits.shape[:2])} (rows, positions), the labels "
            f"about {list(targets.shape)}. Something adds or removes positions inside of the model "
            "(virtual tokens of prompt tuning?): override compute_sample_losses(inputs, outputs) "
            "and return token_losses of the logits that the labels are about."
        )
    size = max(1, _CHUNK_ELEMENTS // logits.shape[-1])
    chunks = zip(logits.flatten(0, 1).split(size), targets.flatten().split(size), strict=True)
    rows = [_loss_and_entropy(*chunk, IGNORE_INDEX) for chunk in chunks]
    losses, entropies = (torch.cat(part).view(targets.shape) for part in zip(*rows, strict=True))
    mask = targets != IGNORE_INDEX
    counts = mask.sum(1)
    entropy = (entropies * mask).sum(1) / counts.clamp(min=1) / math.log(logits.shape[-1])
    return SampleLosses(losses.sum(1), counts, uncertainty=entropy.clamp(0, 1), mask=mask)


def pixel_losses(
    logits: Tensor, targets: Tensor, *, ignore_index: int = IGNORE_INDEX
) -> SampleLosses:
    """Cross entropy of logits `[B, C, h, w]` and int64 targets `[B, H, W]`, pixel by pixel.

    Logits of another size are first interpolated to that of the targets (bilinear, as by the models
    of transformers). One channel is the logit of class 1 of two classes.

    Uncertainty is the mean entropy over the pixels that count, divided by log C. An image none of
    whose pixels counts has loss and uncertainty zero.

    Args:
        logits: `[B, C, h, w]`, or `[B, 1, h, w]` of two classes.
        targets: int64 `[B, H, W]`, classes in [0, C).
        ignore_index: the target of pixels that do not count.

    Raises:
        InputError: other shapes.
    """
    if logits.ndim != 4 or targets.ndim != 3 or len(logits) != len(targets):
        raise InputError(
            f"logits came with shape {list(logits.shape)} and targets with {list(targets.shape)}; "
            "expected [B, C, h, w] and [B, H, W], the class of each pixel. Of targets [B, 1, H, W] "
            "take targets.squeeze(1), of one-hot ones targets.argmax(1)."
        )
    if logits.shape[1] == 1:
        logits = torch.cat([torch.zeros_like(logits), logits], 1)
    size = max(1, _CHUNK_ELEMENTS // (logits.shape[1] * targets[0].numel()))
    parts = [
        _loss_and_entropy(_resized(part, targets.shape[1:]), target, ignore_index)
        for part, target in zip(logits.split(size), targets.split(size), strict=True)
    ]
    losses, entropies = (torch.cat(part).flatten(1) for part in zip(*parts, strict=True))
    mask = (targets != ignore_index).flatten(1)
    counts = mask.sum(1)
    entropy = (entropies * mask).sum(1) / counts.clamp(min=1) / math.log(logits.shape[1])
    return SampleLosses(losses.sum(1), counts, uncertainty=entropy.clamp(0, 1))


def next_tokens(labels: Tensor) -> Tensor:
    """Targets `[B, T]` of a causal model: position t predicts label t + 1, the last one nothing."""
    return F.pad(labels, (0, 1), value=IGNORE_INDEX)[..., 1:]


def check_decomposition(losses: Tensor, loss: Tensor, weight: Tensor | None = None) -> None:
    """Refuse losses of samples whose weighted mean is not the loss of the batch.

        samples = pixel_losses(model(x), y)
        check_decomposition(samples.losses, F.cross_entropy(model(x), y), samples.counts)

    A check for the first batches of a loop, or for its tests: it waits for an accelerator.

    Args:
        losses: float `[B]`, one loss a sample.
        loss: the loss that the model or the loop computed of the same batch, a scalar.
        weight: `[B]`, not negative, what each sample counts; None for all alike.

    Raises:
        InputError: they differ by more than rounding; the message says by what factor.
    """
    if losses.ndim != 1 or loss.ndim or (weight is not None and weight.shape != losses.shape):
        shapes = [
            list(losses.shape),
            list(loss.shape),
            None if weight is None else list(weight.shape),
        ]
        raise InputError(
            f"losses, loss and weight came with shapes {', '.join(map(str, shapes))}; expected "
            "[B], [] and [B]."
        )
    each, whole = losses.detach().cpu().double(), float(loss.detach())
    share = torch.ones_like(each) if weight is None else weight.to(each)
    mean, plain = float((share * each).sum() / share.sum().clamp(min=1e-12)), float(each.mean())
    is_half = losses.dtype.itemsize < 4 or loss.dtype.itemsize < 4
    is_whole = partial(math.isclose, whole, rel_tol=2e-2 if is_half else 1e-4, abs_tol=1e-6)
    if is_whole(mean):
        return
    came = f"the losses of the samples come to {mean:.6g}, the loss of the batch is {whole:.6g}"
    if is_whole(plain):
        raise InputError(f"{came}, which is their plain mean: leave weight out.")
    factor = whole / mean if mean else math.inf
    raise InputError(
        f"{came}, {factor:.4g} times as much; expected the same. Either samples count differently "
        "in it: pass what each counts as weight= (labels, tokens or pixels that count, weights of "
        "classes). Or it has terms that the losses lack (label smoothing, auxiliary heads, "
        "penalties): add each sample's part of them, or leave them out here and backpropagate the "
        "loss of the batch instead of what learn() returns."
    )


def _targets(inputs: Mapping[str, Any], labels: Tensor, *, predicts_next: bool) -> Tensor:
    """What each position's logits are about, `[B, T]`."""
    if "shift_labels" in inputs:
        return _tensor(inputs, "shift_labels", "the batch").to(labels.device)
    return next_tokens(labels) if predicts_next else labels


def _pixels_of_transformers(logits: Tensor, labels: Tensor, ignored: int) -> SampleLosses:
    """The terms of semantic segmentation; one channel is averaged over ignored pixels too."""
    if logits.shape[1] > 1:
        return pixel_losses(logits, labels, ignore_index=ignored)
    samples = pixel_losses(logits, labels.where(labels >= 0, ignored), ignore_index=ignored)
    return replace(samples, counts=torch.full_like(samples.counts, labels[0].numel()))


def _resized(logits: Tensor, size: torch.Size) -> Tensor:
    """Images `[b, C, h, w]` of the size of their targets."""
    if logits.shape[2:] == size:
        return logits
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)


def _loss_and_entropy(logits: Tensor, targets: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Of `[M, C, ...]`: losses `[M, ...]`, zero where ignored, and entropies in nats."""
    log_p = F.log_softmax(logits.float(), dim=1)
    losses = F.nll_loss(log_p, targets, ignore_index=ignore_index, reduction="none")
    with torch.no_grad():
        entropies = torch.special.entr(log_p.exp()).sum(1)
    return losses, entropies


def _tensor(values: Any, name: str, where: str) -> Tensor:
    value = values.get(name) if isinstance(values, Mapping) else None
    if not isinstance(value, Tensor):
        raise InputError(
            f"{where} has no tensor {name!r}, so each sample's loss cannot be told. {_OVERRIDE}"
        )
    return value


def __getattr__(name: str) -> Any:
    """`DetectorLosses`, whose module imports this one, when it is first asked for."""
    if name == "DetectorLosses":
        return import_module("data_agent.detectors").DetectorLosses
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
