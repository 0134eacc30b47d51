"""Metrics to TensorBoard, Weights & Biases or trackio, by one line in any loop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from data_agent.errors import InputError

__all__ = ["track"]


def track(
    writer: Any, metrics: Mapping[str, float], step: int, *, prefix: str = "data_agent/"
) -> None:
    """Send metrics to a tracker: `track(writer, agent.metrics(), step)`.

    Args:
        writer: a `SummaryWriter` of TensorBoard, a run of W&B or trackio, or one of these two
            modules; whatever has their `add_scalar(name, value, step)` or `log(values, step=)`.
        metrics: by name, as `Selector.metrics()` has them.
        step: at which they were, 0 or more.
        prefix: of every name; the Trainers use the same one.

    Raises:
        InputError: the writer has neither.
    """
    named = {f"{prefix}{name}": value for name, value in metrics.items()}
    if (add_scalar := getattr(writer, "add_scalar", None)) is not None:
        for name, value in named.items():
            add_scalar(name, value, step)
    elif (log := getattr(writer, "log", None)) is not None:
        log(named, step=step)
    else:
        raise InputError(
            f"{type(writer).__name__} has neither add_scalar nor log; expected a SummaryWriter of "
            "TensorBoard, or a run of W&B or trackio."
        )
