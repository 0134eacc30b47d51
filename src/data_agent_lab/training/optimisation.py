"""Optimizers and learning-rate schedules."""

from __future__ import annotations

import math

import torch
from torch import nn

from data_agent_lab.recipes import ImageRecipe, Schedule

_WARM_UP = 0.3  # share of the steps in which one-cycle rises, and ...
_START = 1 / 25  # ... the share of the peak it starts from (Smith and Topin 2018, torch's values)


def make_optimizer(model: nn.Module, recipe: ImageRecipe) -> torch.optim.Optimizer:
    """The recipe's optimizer over all parameters of the model."""
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(
            model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
    return torch.optim.SGD(
        model.parameters(),
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=recipe.momentum > 0,
    )


def learning_rate(step: int, *, num_steps: int, peak: float, schedule: Schedule) -> float:
    """Learning rate of an optimizer step: a pure function, so it needs no state of its own.

    With `t = (step + 1/2) / num_steps`, cosine is `peak (1 + cos(pi t)) / 2`; one-cycle rises along
    a cosine from `peak / 25` to `peak` at t = 0.3, then falls along a cosine to zero at t = 1.

    Args:
        step: in [0, num_steps).
        num_steps: optimizer steps of the whole run.
        peak: the highest rate.
        schedule: one-cycle or cosine.
    """
    return rate_at((step + 0.5) / num_steps, peak=peak, schedule=schedule)


def rate_at(time: float, *, peak: float, schedule: Schedule) -> float:
    """Learning rate when the share `time`, in (0, 1), of a run is done; see `learning_rate`."""
    if schedule == "one-cycle":
        if time < _WARM_UP:
            return peak * (_START + (1 - _START) * (1 - _falling(time / _WARM_UP)))
        time = (time - _WARM_UP) / (1 - _WARM_UP)
    return peak * _falling(time)


def _falling(time: float) -> float:
    """Half a cosine from 1 at time 0 to 0 at time 1."""
    return (1 + math.cos(math.pi * time)) / 2
