"""What the samples of an epoch were, by the labels that the lab knows and no method sees."""

from __future__ import annotations

from typing import Any

from torch import Tensor

MOST_CLASSES = 20  # of more, the line of an epoch would be mostly classes


def shares_visited(
    index: Tensor, labels: Tensor | None, true_labels: Tensor, trusted: Tensor | None
) -> dict[str, Any]:
    """Shares of an epoch's samples, each in [0, 1].

    Args:
        index: int64 `[K]`, the samples that the epoch visits.
        labels: int64 `[N]`, as they are trained on; None where nothing is classified.
        true_labels: int64 `[N]`, before any noise; negative of a foreign sample.
        trusted: bool `[N]`, samples that the user trusts; None for none.

    Returns:
        "classes", a list of shares by label, of up to 20 classes; where the data have some
        "wrong_labels", of the data's own samples, and "foreign"; "trusted" where some are.
    """
    found: dict[str, Any] = {}
    is_foreign = true_labels < 0
    kinds = {"foreign": is_foreign}
    if labels is not None:
        num_classes = 1 + int(labels.max())
        if num_classes <= MOST_CLASSES:
            counts = labels[index].bincount(minlength=num_classes)
            found["classes"] = (counts / len(index)).tolist()
        kinds = {"wrong_labels": (labels != true_labels) & ~is_foreign, **kinds}
    if trusted is not None:
        kinds["trusted"] = trusted
    shares = {name: float(m[index].float().mean()) for name, m in kinds.items() if m.any()}
    return found | shares
