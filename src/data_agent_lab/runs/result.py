"""What a finished run reached and cost: one schema for images and text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Direction = Literal["higher", "lower"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RunResult:
    """The content of a run's `result.json`; `RunResult(**content)` reads it.

    Fields with a default were added later: the results of older image runs lack them.
    """

    status: Literal["finished"] = "finished"
    metric: str
    """What runs of the task are compared by: accuracy or loss."""
    unit: str
    """Of the value: % or nats."""
    direction: Direction = "higher"
    """Whether higher or lower values are better."""
    value: float
    """The metric on the evaluation samples at the end."""
    further_metrics: Mapping[str, Mapping[str, Any]] = field(
        default_factory=dict[str, Mapping[str, Any]]
    )
    """By name value, unit and direction of what else the trained model was measured by."""
    eval_loss: float
    """Mean loss over the evaluation samples at the end."""
    train_loss: float
    """Mean loss in training over the last epoch."""
    evaluation: str
    """Where the evaluation samples come from, in words."""
    num_train_samples: int
    num_eval_samples: int
    num_train_tokens: int | None = None
    """Tokens of the training samples; None for images."""
    dropped: Mapping[str, int] = field(default_factory=dict[str, int])
    """Rows that could not be used, by reason."""
    num_classes: int
    num_noisy_labels: int
    """Training labels that are wrong."""
    num_parameters: int
    num_trained_parameters: int | None = None
    num_forward: int
    """Samples that went through the model to train it."""
    num_backward: int
    """Samples that went through its backward pass."""
    num_steps: int
    """Optimizer steps."""
    cost: float
    """Share of full training, counted in samples; a backward pass costs two forward passes."""
    token_cost: float | None = None
    """The same, counted in tokens; None for images."""
    train_seconds: float
    """Without evaluation and checkpoints; what a method was given beforehand is included."""
    train_cpu_seconds: float | None = None
    eval_seconds: float | None = None
    overhead_seconds: float
    """Of the training time, what selecting took."""
    schedule: str | None = None
    """Kind of the selector's schedule."""
    device: str

    def as_dict(self) -> dict[str, Any]:
        """All fields by name, as stored in a run's folder."""
        return asdict(self)
