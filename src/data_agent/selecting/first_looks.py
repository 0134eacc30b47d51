"""The first batches are looked at: inputs of the right shape that cannot be right are named."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from data_agent.errors import DataAgentWarning, InputError
from data_agent.selecting.feedback import Feedback

NUM_LOOKS = 4  # batches; on an accelerator each look waits for it
_DOCS = "docs/signals.md says what to hand over for which task."


class FirstLooks:
    """Looks at the first batches; warns where in each of them all losses or features are alike.

    One batch may be dull by chance, and the losses of a head that begins at zero are one number
    until it moves; so all batches are judged together, those of a single row left out.

    Args:
        needs_features: whether features are read.
    """

    def __init__(self, *, needs_features: bool) -> None:
        self.is_over = False
        self._needs_features = needs_features
        self._num_looks = 0
        self._losses: list[tuple[float, float]] = []
        self._feature_spreads: list[float] = []

    def at(self, feedback: Feedback) -> None:
        """Look at a batch; waits for the device it is on.

        Raises:
            InputError: an uncertainty outside of [0, 1].
        """
        if feedback.uncertainty is not None:
            _check_unit_range(feedback.uncertainty)
        self._num_looks += 1
        if len(feedback) > 1:
            self._losses.append(_range(feedback.losses))
            if self._needs_features and feedback.features is not None:
                self._feature_spreads.append(_spread(feedback.features))
        if self._num_looks == NUM_LOOKS:
            self.is_over = True
            self._judge()

    def _judge(self) -> None:
        differ_by_batch = len(set(self._losses)) > 1
        if differ_by_batch and all(low == high for low, high in self._losses):
            _warn(
                f"in each of the first {len(self._losses)} batches all losses are one number, from "
                "batch to batch another one: is the mean of the batch handed over for each of its "
                'samples? Compute the loss with reduction="none", average over tokens or pixels '
                "only, and pass one loss a sample."
            )
        spreads = self._feature_spreads
        if len(spreads) > 1 and not any(spreads):
            _warn(
                f"in each of the first {len(spreads)} batches all samples have the same features, "
                "so the policy cannot tell one from another. Watch the layer that makes the logits "
                "or hand over features=[B, D] that depend on the sample, such as its pooled "
                "embedding."
            )


def _check_unit_range(uncertainty: Tensor) -> None:
    low, high = _range(uncertainty)
    if low < 0 or high > 1:  # neither for NaN, which is told of elsewhere
        raise InputError(
            f"uncertainty came with values in [{low:.3g}, {high:.3g}]; expected [0, 1]. Divide an "
            "entropy by that of the uniform distribution, log C; of a deviation s take s / (s + c) "
            f"with its typical value c. {_DOCS}"
        )


def _range(values: Tensor) -> tuple[float, float]:
    """The least and the greatest of `[B]`."""
    low, high = torch.stack(torch.aminmax(values)).tolist()
    return low, high


def _spread(features: Tensor) -> float:
    """How far apart the rows of `[B, D]` are at most, in any coordinate; zero for equal rows."""
    low, high = torch.aminmax(features, dim=0)
    return float((high - low).amax())


def _warn(message: str) -> None:
    warnings.warn(f"{message} {_DOCS}", DataAgentWarning, stacklevel=2)
