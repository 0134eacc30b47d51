"""What `selector="auto"` picks, from what is known for certain when a run begins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from torch import Tensor
from torch.utils.data import IterableDataset

from data_agent.labels import LabelRules
from data_agent.loading.looking import look_at
from data_agent.trusted.overlap import LABEL_NAMES

AUTO = "auto"


def pick_method(
    dataset: Any, model: Any, *, reads_labels: bool, has_head: bool = True
) -> tuple[str, str]:
    """The name of a method, and the reason in words: by labels, or the policy if in doubt.

    Of ten classes or more noise rates are told from features; of fewer `label-aware` doubts no
    label. Where samples are labelled at random, it harms with more classes than that.

    Args:
        dataset: the training dataset.
        model: `problem_type` and `num_labels` of its config say what labels are, unless it has
            output embeddings, with which its labels are tokens.
        reads_labels: whether the samples' terms come from "logits" and "labels".
        has_head: whether the model's last layer is known, whose inputs are the features.
    """
    if not reads_labels:
        return "data-agent", "the losses of samples are computed by the Trainer's own method"
    if isinstance(dataset, IterableDataset):
        return "data-agent", "a stream may not know its columns"
    if (reason := _why_no_classes(model)) is not None:
        return "data-agent", reason
    if not _has_one_class(dataset):
        return "data-agent", "its rows do not have one class label each"
    if model.config.num_labels < LabelRules().fewest_classes or not has_head:
        return "label-aware", "every row has one class label"
    return "noise-aware", f"every row has one label of {model.config.num_labels} classes"


def _why_no_classes(model: Any) -> str | None:
    """What says that labels are other things than one class a row; None where nothing does."""
    config = getattr(model, "config", None)
    embeddings = getattr(model, "get_output_embeddings", None)
    if callable(embeddings) and embeddings() is not None:
        return "the model's labels are tokens"
    problem = getattr(config, "problem_type", None)
    if problem not in (None, "single_label_classification"):
        return f"the model's problem_type is {problem}"
    return "the model has no classes" if getattr(config, "num_labels", 0) < 2 else None


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
