"""What `selector="auto"` picks, from what is known for certain when a run begins."""

from __future__ import annotations

import random
from collections.abc import Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

if TYPE_CHECKING:
    from collections.abc import Generator

AUTO = "auto"
_LABELS = ("labels", "label", "label_ids")


def pick_method(dataset: Any, config: Any, *, reads_labels: bool) -> tuple[str, str]:
    """The name of a method, and the reason in words.

    `label-aware` where every row is known to have one class label, else the policy.

    Args:
        dataset: the training dataset.
        config: of the model; its `problem_type` and `num_labels` say what labels are.
        reads_labels: whether the Trainer takes the samples' terms from "logits" and "labels", and
            not from a method of the user's.
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
        column = next((features[name] for name in _LABELS if name in features), None)
        dtype = str(getattr(column, "dtype", ""))
        return hasattr(column, "num_classes") or dtype.startswith(("int", "uint"))
    with _random_states_kept():
        row = dataset[0]
    if not isinstance(row, Mapping):
        return False
    values = cast("Mapping[str, Any]", row)
    label = next((values[name] for name in _LABELS if name in values), None)
    if isinstance(label, bool | np.bool_):
        return False
    if isinstance(label, Tensor | np.ndarray):
        is_whole = not torch.as_tensor(label).is_floating_point()
        return is_whole and torch.as_tensor(label).numel() == 1 and label.ndim == 0
    return isinstance(label, int | np.integer)


@contextmanager
def _random_states_kept() -> Generator[None]:
    """A look at a row may draw its augmentation: the run must not notice."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - the user's own
    try:
        with torch.random.fork_rng([]):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
