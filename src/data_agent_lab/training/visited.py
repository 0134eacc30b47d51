"""What the samples of an epoch were, by the labels that the lab knows and no method sees."""

from __future__ import annotations

from typing import Any

from torch import Tensor

MOST_CLASSES = 20  # of more, the line of an epoch would be mostly classes


def shares_visited(
    index: Tensor, labels: Tensor, true_labels: Tensor, trusted: Tensor | None
) -> dict[str, Any]:
    """Shares of an epoch's samples, each in [0, 1].

    Args:
        index: int64 `[K]`, the samples that the epoch visits.
        labels: int64 `[N]`, as they are trained on.
        true_labels: int64 `[N]`, before any noise.
        trusted: bool `[N]`, samples that the user trusts; None for none.

    Returns:
        "classes", a list of shares by label, of up to 20 classes; "wrong_labels" where the data
        have some, and "trusted" where some are trusted.
    """
    found: dict[str, Any] = {}
    num_classes = 1 + int(labels.max())
    if num_classes <= MOST_CLASSES:
        counts = labels[index].bincount(minlength=num_classes)
        found["classes"] = (counts / len(index)).tolist()
    is_wrong = labels != true_labels
    if is_wrong.any():
        found["wrong_labels"] = float(is_wrong[index].float().mean())
    if trusted is not None:
        found["trusted"] = float(trusted[index].float().mean())
    return found
