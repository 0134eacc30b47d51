"""What travels between loop and selector: `Feedback` (loop to selector), `Selection` (back)."""

from __future__ import annotations

import difflib
import math
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Any, SupportsFloat

import torch
from torch import Tensor

from data_agent.errors import InputError, StateError

WITHOUT_RULES = "a method without label rules, such as data-agent or random"
_NO_SIGNALS: dict[str, Tensor] = {}
_SHAPES = {  # of columns: dimensions, and whether they are floating-point
    "logits": (2, True),
    "features": (2, True),
    "labels": (1, False),
    "uncertainty": (1, True),
}


class MissingLogitsError(InputError):
    """A method reads what a batch did not bring: logits, or an uncertainty in their place."""


@dataclass(frozen=True, slots=True, eq=False)
class Feedback:
    """What one training batch showed: one row for each of its `B` samples, detached.

    Args:
        index: int64 `[B]`, positions of the samples in the dataset.
        losses: float `[B]`, one loss a sample (`reduction="none"`), any unit.
        logits: float `[B, C]`, the model's outputs, or None. One logit a sample, `[B]` or `[B, 1]`,
            is that of the second of two classes: it is kept as `[B, 2]`.
        features: float `[B, D]`, the input of the model's last layer, or None.
        labels: int64 `[B]`, or None.
        uncertainty: float `[B]` in [0, 1], where the task has its own; None takes it from logits.
        signals: further float `[B]` values by name, for rewards of one's own.
        sizes: rows of each batch, in order, where the selector hands several over at once; set by
            it, for methods that compare the samples of a batch.

    Raises:
        InputError: a tensor of another shape or dtype; the message names it.
    """

    index: Tensor
    losses: Tensor
    logits: Tensor | None = None
    features: Tensor | None = None
    labels: Tensor | None = None
    uncertainty: Tensor | None = None
    signals: Mapping[str, Tensor] = field(default_factory=lambda: _NO_SIGNALS)
    sizes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _check_losses(self.losses)
        size = self.losses.shape[0]
        _check_index(self.index, size)
        for name, value in (
            ("logits", self.logits),
            ("features", self.features),
            ("labels", self.labels),
            ("uncertainty", self.uncertainty),
        ):
            if value is not None:
                object.__setattr__(self, name, _checked_column(name, value, size))
        for name, values in self.signals.items():
            _check_rows(f"signal {name!r}", values, size, ndim=1)
        if self.losses.requires_grad:
            object.__setattr__(self, "losses", self.losses.detach())

    def __len__(self) -> int:
        """Number of samples in the batch."""
        return self.losses.shape[0]

    def having(self, **columns: Any) -> Feedback:
        """The same batch with other columns; as `replace`, but nothing is checked twice.

        A step makes several of these, and Python's calls are what a step costs.

        Args:
            columns: of `logits`, `features`, `labels`, `uncertainty`, `[B, ...]` or None; and
                `signals`, which the caller has checked.

        Raises:
            InputError: a tensor of another shape or dtype; the message names it.
        """
        changed = object.__new__(Feedback)
        for name, value in zip(_FIELDS, _values_of(self), strict=True):
            object.__setattr__(changed, name, value)
        for name, value in columns.items():
            if name in _SHAPES and value is not None:
                value = _checked_column(name, value, self.losses.shape[0])
            object.__setattr__(changed, name, value)
        return changed


_FIELDS = tuple(each.name for each in fields(Feedback))
_values_of = attrgetter(*_FIELDS)


def _checked_column(name: str, value: Any, size: int) -> Tensor:
    """A column of a batch of `size` samples, detached; one logit as those of two classes."""
    if name == "logits" and _is_one_logit(value):
        value = two_classes(value)
    ndim, floating = _SHAPES[name]
    _check_rows(name, value, size, ndim=ndim, floating=floating)
    return value.detach() if value.requires_grad else value


def _check_losses(losses: object) -> None:
    if not isinstance(losses, Tensor):
        raise InputError(f"losses must be a tensor [B], got {type(losses).__name__}.")
    if losses.ndim == 0:
        raise InputError(
            "losses came as one number (shape []); one loss per sample is needed, shape [B]. "
            'Compute the loss with reduction="none"; learn() returns the mean to backpropagate.'
        )
    if losses.ndim != 1:
        raise InputError(
            f"losses came with shape {list(losses.shape)}; expected [B]. Average over the other "
            "dimensions first (for sequences: over the tokens that carry a label)."
        )
    if losses.shape[0] == 0:
        raise InputError("losses came empty (shape [0]); a batch holds at least one sample.")
    if not losses.is_floating_point():
        raise InputError(f"losses came as {losses.dtype}; expected a floating-point dtype.")


def _check_index(index: object, size: int) -> None:
    if not isinstance(index, Tensor):
        raise InputError(
            f"index must be an int64 tensor [B], got {type(index).__name__}. The loader made by "
            "selection_loader() delivers it as the last element of each batch "
            '(or under the key "sample_index").'
        )
    if index.dtype != torch.int64:
        raise InputError(
            f"index came as {index.dtype}; expected torch.int64 (positions in the dataset). "
            "Floating-point indices lose samples: 3001 in bfloat16 is 3008."
        )
    if index.ndim != 1 or index.shape[0] != size:
        raise InputError(
            f"index came with shape {list(index.shape)} for {size} losses; expected [{size}]."
            + _why_other_rows(index, size)
        )


def _why_other_rows(index: Tensor, size: int) -> str:
    """What to do where there are more or fewer losses than samples."""
    if index.ndim != 1:
        return " Pass it as the loader delivered it, or index.flatten()."
    if size > len(index):
        return (
            " Are these the losses of all tokens or pixels? One loss a sample is needed, the mean "
            f"over those of it that count: losses.view({len(index)}, -1).mean(1)."
        )
    return (
        " Were rows left out, by a collate function or by your loop? Hand over the index of the "
        "rows that are left (index[keep]); where samples cannot be used, select from "
        "torch.utils.data.Subset(dataset, usable) without them."
    )


def _is_one_logit(logits: object) -> bool:
    return isinstance(logits, Tensor) and (logits.ndim == 1 or logits.shape[1:] == (1,))


def two_classes(logit: Tensor) -> Tensor:
    """Logits `[B, 2]` whose softmax is the sigmoid of `logit`, `[B]` or `[B, 1]`."""
    logit = logit.detach().flatten()
    return torch.stack([torch.zeros_like(logit), logit], dim=1)


def _check_rows(name: str, value: object, size: int, *, ndim: int, floating: bool = True) -> None:
    if not isinstance(value, Tensor):
        hint = " Number classes that are words from 0 first." if name == "labels" else ""
        came = f"{name} must be a tensor, got {type(value).__name__}."
        raise InputError(f"{came} Pass torch.as_tensor({name}).{hint}")
    if value.ndim != ndim or value.shape[0] != size:
        expected = f"[{size}]" if ndim == 1 else f"[{size}, width]"
        raise InputError(
            f"{name} came with shape {list(value.shape)} for {size} losses; expected {expected}."
            + _why_other_shape(name, value, size, ndim)
        )
    if value.is_floating_point() != floating:
        kind = "a floating-point" if floating else "an integer"
        hint = ""
        if name == "labels":
            hint = f" Pass classes as labels.long(); for a regression {_NO_LABELS}."
        raise InputError(f"{name} came as {value.dtype}; expected {kind} dtype.{hint}")


_NO_LABELS = f"leave labels= out (label rules need them: take {WITHOUT_RULES})"


def _why_other_shape(name: str, value: Tensor, size: int, ndim: int) -> str:
    """What to do where a tensor has not one value, or not one row, for each sample."""
    if value.numel() == size and ndim == 1:
        return f" Pass {name}.flatten()."
    if name == "labels":
        return (
            " One class a sample is needed: of one-hot rows labels.argmax(1), of mixed ones "
            f"(mixup) the class before mixing. Where samples have several classes, {_NO_LABELS}."
        )
    if ndim == 2 and value.ndim > 2:
        return (
            " Reduce it to one row a sample first: pool images over space, sequences over the "
            "tokens that count (a mask is needed to know them, so we do not guess)."
        )
    return ""


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """The samples of one epoch.

    Args:
        index: int64 `[K]`, distinct positions in the dataset, ascending.
        weights: float32 `[K]` with mean one, the factor of each sample's loss; None means ones.
    """

    index: Tensor
    weights: Tensor | None = None

    def __len__(self) -> int:
        """Number of samples in the epoch."""
        return self.index.shape[0]

    def weights_of(self, index: Tensor) -> Tensor | None:
        """The weights float32 `[B]` of the samples `index`, int64 `[B]`; None means ones.

        Raises:
            InputError: a sample that is not in the selection.
        """
        if self.weights is None:
            return None
        at = torch.searchsorted(self.index, index).clamp(max=len(self) - 1)
        if not torch.equal(self.index[at], index):
            raise InputError("index holds samples that are not in the running epoch's selection.")
        return self.weights[at]


@contextmanager
def plain_arithmetic(device: torch.device) -> Generator[None]:
    """Work without gradients, autocast or inference mode, whatever the loop is in."""
    with torch.no_grad():
        if not (torch.is_inference_mode_enabled() or torch.is_autocast_enabled(device.type)):
            yield
            return
    with (
        torch.inference_mode(False),
        torch.no_grad(),
        torch.autocast(device.type, enabled=False),
    ):
        yield


def check_range(index: Tensor, num_samples: int) -> None:
    """Positions must be positions of the dataset.

    Raises:
        InputError: one is not in [0, num_samples).
    """
    values = index.numpy()
    if len(values) and (values.min() < 0 or values.max() >= num_samples):
        wrong = index[(index < 0) | (index >= num_samples)]
        raise InputError(
            f"index holds {int(wrong[0])}, but the dataset has {num_samples} samples. Is this the "
            "loader made for this selector, and is num_samples the length of its dataset?"
        )


_ARGUMENTS = ("labels", "logits", "features", "uncertainty", "denominator", "losses", "index")
_MEANT = {  # what other libraries call them
    **dict.fromkeys(("target", "targets", "y", "y_true", "label_ids"), "labels"),
    **dict.fromkeys(("output", "outputs", "pred", "preds", "predictions"), "logits"),
    **dict.fromkeys(("embedding", "embeddings"), "features"),
    **dict.fromkeys(("idx", "ids", "indices", "sample_index"), "index"),
    **dict.fromkeys(("normalizer", "normaliser", "num_items_in_batch"), "denominator"),
}
_WEIGHTS = ("weight", "weights", "sample_weight", "sample_weights", "class_weight", "class_weights")


def check_signal_names(names: Iterable[str]) -> None:
    """An argument of `learn` under another name must not pass for a signal of one's own.

    Raises:
        InputError: a name is almost that of an argument, or that of one elsewhere.
    """
    for name in names:
        close = difflib.get_close_matches(name, (*_ARGUMENTS, *_WEIGHTS), n=1, cutoff=0.8)
        meant = _MEANT.get(name.lower(), *close)
        if meant in _WEIGHTS:
            hint = (
                "Weights belong in the losses: learn(weights * losses, index, "
                "denominator=weights.sum()), with the weight of each sample."
            )
        elif meant:
            hint = f"Did you mean {meant}=?"
        else:
            continue
        raise InputError(
            f"learn() got {name}=, which would be a signal of your own. {hint} If it is a signal, "
            "give it another name."
        )


def checked_denominator(value: object, losses: Tensor) -> Tensor | float:
    """What a sum of losses may be divided by; on an accelerator its value is not looked at.

    Raises:
        InputError: it is no number, or not positive.
    """
    if isinstance(value, Tensor):
        if value.ndim != 0 or value.dtype == torch.bool or value.is_complex():
            raise InputError(
                f"denominator came with shape {list(value.shape)} and {value.dtype}; expected one "
                "number, such as (labels != -100).sum() or weight[labels].sum()."
            )
        if value.device.type == "cpu":
            _check_positive(float(value))
        return value.to(losses.device)
    if isinstance(value, bool) or not isinstance(value, SupportsFloat):
        raise InputError(
            f"denominator is {value!r}; expected a number, or a tensor that holds one, such as "
            "(labels != -100).sum()."
        )
    _check_positive(float(value))
    return float(value)


def _check_positive(value: float) -> None:
    if not 0 < value < math.inf:
        raise InputError(
            f"denominator is {value:g}; the loss is divided by it, so it must be positive. Where "
            "no label of a batch may count, write denominator=count.clamp(min=1)."
        )


def require_graph(losses: Tensor) -> None:
    """A loss to backpropagate needs a graph.

    Raises:
        StateError: `losses` carry none.
    """
    if not losses.requires_grad:
        raise StateError(
            "losses carry no graph, so there is nothing to backpropagate. Called in evaluation or "
            "under torch.no_grad()? agent.observe(Feedback(index, losses, ...)) learns without one."
        )
