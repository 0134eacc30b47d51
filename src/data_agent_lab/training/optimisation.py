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
    weights, rate, decay = model.parameters(), recipe.learning_rate, recipe.weight_decay
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(weights, lr=rate, weight_decay=decay)
    momentum = recipe.momentum
    return torch.optim.SGD(
        weights, lr=rate, momentum=momentum, weight_decay=decay, nesterov=momentum > 0
    )


def take_step(optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, rate: float) -> None:
    """Step at a learning rate, with gradients that `scaler` has scaled, and clear these."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()


def learning_rate(time: float, *, peak: float, schedule: Schedule) -> float:
    """Learning rate when the share `time`, in (0, 1), of a run is done: it needs no state.

    Cosine is `peak (1 + cos(pi time)) / 2`; one-cycle rises along a cosine from `peak / 25` to
    `peak` at 0.3, then falls along a cosine to zero at 1. The rate of step i of n is that of
    `(i + 1/2) / n`.
    """
    if schedule == "one-cycle":
        if time < _WARM_UP:
            return peak * (_START + (1 - _START) * (1 - _falling(time / _WARM_UP)))
        time = (time - _WARM_UP) / (1 - _WARM_UP)
    return peak * _falling(time)


def _falling(time: float) -> float:
    """Half a cosine from 1 at time 0 to 0 at time 1."""
    return (1 + math.cos(math.pi * time)) / 2
