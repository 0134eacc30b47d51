"""What `selector="auto"` picks, from what is known for certain when a run begins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from torch import Tensor
from torch.utils.data import IterableDataset

from data_agent.loading.looking import look_at
from data_agent.trusted.overlap import LABEL_NAMES

AUTO = "auto"


def pick_method(dataset: Any, config: Any, *, reads_labels: bool) -> tuple[str, str]:
    """The name of a method, and the reason in words: label-aware, or the policy if in doubt.

    Args:
        dataset: the training dataset.
        config: of the model; its `problem_type` and `num_labels` say what labels are.
        reads_labels: whether the samples' terms come from "logits" and "labels".
    """
    if not reads_labels:
        return "data-agent", "the losses of samples are computed by the Trainer's own method"
    if isinstance(dataset, IterableDataset):
        return "data-agent", "a stream may not know its columns"
    problem = getattr(config, "problem_type", None)
    if problem not in (None, "single_label_classification"):
        return "data-agent", f"the model's problem_type is {problem}"
    if getattr(config, "num_labels", 0) < 2:
        return "data-agent", "the model has no classes"
    if not _has_one_class(dataset):
        return "data-agent", "its rows do not have one class label each"
    return "label-aware", "every row has one class label"


def _has_one_class(dataset: Any) -> bool:
    """Whether rows hold one whole number as their label."""
    features = getattr(dataset, "features", None)
    if isinstance(features, Mapping):
        column = next((features[name] for name in LABEL_NAMES if name in features), None)
        dtype = str(getattr(column, "dtype", ""))
        return hasattr(column, "num_classes") or dtype.startswith(("int", "uint"))
    row = look_at(dataset)
    if not isinstance(row, Mapping):
        return False
    values = cast("Mapping[str, Any]", row)
    label = next((values[name] for name in LABEL_NAMES if name in values), None)
    if isinstance(label, Tensor | np.ndarray | np.generic):
        label = label.item() if label.ndim == 0 else None
    return isinstance(label, int) and not isinstance(label, bool)
