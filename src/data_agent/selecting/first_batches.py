"""A look at the first batches of a run: values of the right shape that cannot be what was meant."""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor

from data_agent.errors import DataAgentWarning, InputError
from data_agent.selecting.feedback import Feedback

NUM_BATCHES = 8  # that are looked at, each of which waits for an accelerator once


class FirstBatches:
    """Refuses uncertainties out of range and losses of whole batches; warns of dead features.

    One batch whose samples all have one loss may be a head that is new; the next one, with another
    loss that all of its samples share, says that the loss of the batch was repeated.

    Args:
        needs_features: whether the method learns from features.
    """

    def __init__(self, *, needs_features: bool) -> None:
        self._needs_features = needs_features
        self._num_looks = 0
        self._shared_loss = math.nan
        """The loss that all samples of the batch before had; NaN if they had several."""
        self._features_were_alike = False

    def look(self, feedback: Feedback) -> None:
        """Look at a batch, unless enough were seen.

        Raises:
            InputError: an uncertainty outside [0, 1], or two batches whose losses are means.
        """
        if self._num_looks == NUM_BATCHES:
            return
        self._num_looks += 1
        features = feedback.features if self._needs_features else None
        values = [
            *_range(feedback.losses),
            *_range(feedback.uncertainty),
            *_range_of_rows(features),
        ]
        least, most, low, high, spread = torch.stack([v.float().cpu() for v in values]).tolist()
        if not -_SLACK <= low <= high <= 1 + _SLACK and math.isfinite(low + high):
            raise InputError(_OUT_OF_RANGE.format(low, high))
        if len(feedback) == 1:
            return
        shared, before = (least if least == most else math.nan), self._shared_loss
        self._shared_loss = shared
        if math.isfinite(shared + before) and shared != before:
            raise InputError(_REDUCED.format(before, shared))
        if (are_alike := spread == 0) and self._features_were_alike:
            self._num_looks = NUM_BATCHES
            warnings.warn(_ALIKE, DataAgentWarning, stacklevel=2)
        self._features_were_alike = are_alike


def _range(values: Tensor | None) -> tuple[Tensor, Tensor]:
    """The least and the largest of values `[B]`; of none 0 and 0."""
    if values is None:
        return torch.zeros(()), torch.zeros(())
    return torch.aminmax(values)


def _range_of_rows(features: Tensor | None) -> tuple[Tensor]:
    """How far rows of features `[B, D]` are from the first of them, at most; of none 1."""
    if features is None or not features.numel():
        return (torch.ones(()),)
    return ((features - features[:1]).abs().amax(),)


_SLACK = 1e-2  # rounding of an entropy in half precision
_OUT_OF_RANGE = (
    "uncertainty lies between {:.4g} and {:.4g}; expected [0, 1], 0 for sure and 1 for knowing "
    "nothing. Divide an entropy by its largest value (math.log(C) for C classes, math.log(2) for "
    "one logit), write 1 - confidence, or leave uncertainty out and hand logits=[B, C] over."
)
_REDUCED = (
    "all samples of a batch have one loss, {:.6g}, and all of the next one {:.6g}: these are the "
    "losses of batches, repeated for each sample, which tell samples not apart. Compute the loss "
    'with reduction="none" and average over everything but the samples; of detectors see '
    "docs/detection.md."
)
_ALIKE = (
    "the features of all samples of a batch are the same, twice in a row, so the policy cannot "
    "tell samples apart by them. Watch the layer whose input differs (watch(model.fc), not one "
    "behind a mean over the batch), or hand features=[B, D] to learn()."
)
