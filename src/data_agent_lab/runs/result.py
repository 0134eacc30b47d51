"""What a finished run reached and cost: one schema for images and text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from data_agent.errors import InputError

_DIGITS = {"%": 2, "nats": 4}
Direction = Literal["higher", "lower"]


@dataclass(frozen=True, slots=True)
class Metric:
    """What is measured; another direction is refused."""

    name: str  # accuracy, loss, ...
    unit: str  # %, nats, or empty
    direction: Direction  # which values are better

    def __post_init__(self) -> None:
        if self.direction not in ("higher", "lower"):
            raise InputError(
                f"the direction of {self.name!r} is {self.direction!r}; a result.json says which "
                "values are better: higher or lower."
            )

    @property
    def sign(self) -> int:
        """1 where higher is better, else -1: `sign * value` is to be maximised."""
        return 1 if self.direction == "higher" else -1

    @property
    def digits(self) -> int:
        """Decimals to show."""
        return _DIGITS.get(self.unit, 3)

    def in_words(self) -> str:
        """Name and unit."""
        return f"{self.name} {self.unit}".strip()


def metric_of(result: Mapping[str, Any]) -> Metric:
    """What a run's value is; old image runs do not say that higher is better."""
    return Metric(result["metric"], result["unit"], result.get("direction", "higher"))


def reached_in_words(result: Mapping[str, Any]) -> str:
    """What a run reached, from its result."""
    metric = metric_of(result)
    return f"{metric.name} {result['value']:.{metric.digits}f} {metric.unit}".strip()


@dataclass(frozen=True, kw_only=True, slots=True)
class RunResult:
    """The content of a run's `result.json`; `RunResult(**content)` reads it.

    Fields with a default were added later: the results of older image runs lack them.
    """

    status: Literal["finished"] = "finished"
    metric: str  # what runs of the task are compared by: accuracy or loss
    unit: str  # of the value: % or nats
    direction: Direction = "higher"  # which values are better
    value: float  # the metric on the evaluation samples at the end
    further_metrics: Mapping[str, Mapping[str, Any]] = field(
        default_factory=dict[str, Mapping[str, Any]]
    )  # by name value, unit and direction of what else the trained model was measured by
    class_accuracy: Mapping[str, float] | None = None  # the metric in % by class; None without
    eval_loss: float  # mean over the evaluation samples at the end
    train_loss: float  # mean in training over the last epoch
    evaluation: str  # where the evaluation samples come from, in words
    num_train_samples: int
    num_eval_samples: int
    num_train_tokens: int | None = None  # None for images
    dropped: Mapping[str, int] = field(default_factory=dict[str, int])  # unusable rows, by reason
    num_classes: int
    num_noisy_labels: int  # training labels that are wrong
    num_trusted_rows: int = 0  # training samples that are trusted, for every method
    num_parameters: int
    num_trained_parameters: int | None = None
    num_forward: int  # samples that went through the model to train it
    num_backward: int  # samples that went through its backward pass
    num_steps: int  # of the optimizer
    cost: float  # share of full training in samples; a backward pass costs two forward passes
    token_cost: float | None = None  # the same in tokens; None for images
    train_seconds: float  # without evaluation and checkpoints, with what was prepared beforehand
    train_cpu_seconds: float | None = None
    eval_seconds: float | None = None
    overhead_seconds: float  # of the training time, what selecting took
    schedule: str | None = None  # kind of the selector's schedule
    device: str

    def as_dict(self) -> dict[str, Any]:
        """All fields by name, as stored in a run's folder."""
        return asdict(self)
