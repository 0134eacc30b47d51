"""What is known of a task's data before any training."""

from __future__ import annotations

from typing import Any

import numpy as np

from data_agent_lab.planning.advice import Facts, skew_of


def facts_of(data: Any) -> Facts:
    """The facts of loaded samples; where none has a label there is nothing to say."""
    if not data.class_names or hasattr(data, "train_objects"):  # an image with boxes has no class
        return Facts(num_classes=0, skew=0.0)
    is_image = hasattr(data, "train_labels")
    labels = data.train_labels.numpy() if is_image else np.asarray(data.samples["labels"])
    counts = np.bincount(labels[labels >= 0], minlength=len(data.class_names))
    return Facts(num_classes=len(data.class_names), skew=skew_of(counts.tolist()))
