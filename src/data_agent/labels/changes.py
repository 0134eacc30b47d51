"""Labels that cannot be what was meant: they change, stop to come, or name no output."""

from __future__ import annotations

import warnings

from torch import Tensor

from data_agent.errors import DataAgentWarning
from data_agent.runtime.masks import size_of
from data_agent.selecting.feedback import WITHOUT_RULES

UNKNOWN = -1  # the class of a sample whose label never came
BEYOND = -2  # in an epoch's rows: a label for which the model has no output
MANY, MOST = 0.05, 0.5  # shares of an epoch's samples from which on it is said
FEWEST = 8  # samples, likewise


def warn_of_labels(before: Tensor, now: Tensor, num_classes: int) -> None:
    """A warning with numbers where many labels of an epoch do not fit what is remembered.

    Args:
        before: int32 `[M]`, what is remembered of the epoch's samples; UNKNOWN where nothing is.
        now: int32 `[M]`, what came; UNKNOWN where none did, BEYOND where there is no such output.
        num_classes: outputs of the model.
    """
    was_known, is_known, is_beyond = before >= 0, now >= 0, now == BEYOND
    changed = was_known & is_known & (before != now)
    if _share(is_beyond, ~is_beyond & is_known) >= MOST:
        _warn(
            f"{size_of(is_beyond)} samples of the last epoch came with labels of {num_classes} "
            f"or more, but the model has {num_classes} outputs: they count as samples without a "
            "label. Number the classes from 0 to "
            f"{num_classes - 1}. Where they are no classes, take {WITHOUT_RULES}, and leave "
            "labels= out."
        )
    if _share(changed, was_known & is_known & ~changed) >= MANY:
        _warn(
            f"{size_of(changed)} of {size_of(was_known & is_known)} samples came with "
            "another label than at their visit before. Either the index is not theirs (pass on "
            "the one that the loader delivers), or labels are drawn or mixed anew: pass each "
            f"sample's own label, or take {WITHOUT_RULES}, and leave labels= out."
        )
    stopped = was_known & ~is_known
    if _share(stopped, was_known & is_known) >= MOST:
        _warn(
            f"{size_of(stopped)} samples of the last epoch had a label at a visit before and "
            "came without one now; the label that is remembered stays. Pass labels= in every "
            "epoch."
        )


def _share(some: Tensor, others: Tensor) -> float:
    """Of two groups of samples the share of the first; 0 where it is too small to tell."""
    first, second = size_of(some), size_of(others)
    return first / (first + second) if first >= FEWEST else 0.0


def _warn(message: str) -> None:
    warnings.warn(message, DataAgentWarning, stacklevel=9)
