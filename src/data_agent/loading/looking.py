"""A look at samples before a run, of which the run must not notice anything."""

from __future__ import annotations

import random
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


@contextmanager
def drawing_nothing() -> Generator[None]:
    """Samples may draw (augmentation); the generators on the host stay as they were."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - the user's own
    try:
        with torch.random.fork_rng([]):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


def look_at(dataset: Any, index: int = 0) -> Any:
    """A sample of a map-style dataset."""
    with drawing_nothing():
        return dataset[index]
