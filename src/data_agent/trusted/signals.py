"""What one visit shows of a row: what its likeness to trusted rows is read from. Pure functions."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from data_agent.selecting.feedback import Feedback

NO_CLASS = -1  # of rows without a label, or whose label is no class of the outputs


def row_signals(feedback: Feedback) -> Tensor:
    """What the model shows of each row, by what there is to see.

    With logits and labels the loss, the entropy over log C, the label's probability, the highest
    probability, the label's logit less the highest other one, and the share of the other classes
    that are likelier than the label. Without labels the loss and the task's own uncertainty, if
    there is one: logits that a watched head brings besides need not be of one distribution. With
    logits alone the loss, the entropy and the highest probability; else the loss.

    Args:
        feedback: reads `losses` `[B]`, `logits` `[B, C]`, `labels` `[B]`, `uncertainty` `[B]`.

    Returns:
        float32 `[B, S]`, S of 6, 3, 2 or 1; rows whose label is no class have zeros for what the
        label tells.
    """
    losses = feedback.losses.float()
    has_own = feedback.uncertainty is not None and feedback.labels is None
    if feedback.logits is None or has_own:
        columns = [losses] if feedback.uncertainty is None else [losses, feedback.uncertainty]
        return torch.stack([column.float() for column in columns], dim=1)
    logits = feedback.logits.float()
    num_classes = logits.shape[1]
    log_p = torch.log_softmax(logits, dim=1)
    p = log_p.exp()
    entropy = -(p * log_p).sum(1) / math.log(num_classes)
    if feedback.labels is None:
        return torch.stack([losses, entropy, p.amax(1)], dim=1)
    label = row_classes(feedback)
    at = label.clamp(min=0).unsqueeze(1)
    own, p_label = logits.gather(1, at), p.gather(1, at)
    margin = own - logits.scatter(1, at, -math.inf).amax(1, keepdim=True)
    rank = (logits > own).sum(1, keepdim=True) / (num_classes - 1)
    of_label = torch.cat([p_label, margin, rank], dim=1) * (label >= 0).unsqueeze(1)
    return torch.cat([torch.stack([losses, entropy, p.amax(1)], dim=1), of_label], dim=1)


def row_classes(feedback: Feedback) -> Tensor:
    """int64 `[B]`: each row's label where it is a class of the logits, else `NO_CLASS`."""
    if feedback.labels is None:
        return torch.full_like(feedback.losses, NO_CLASS, dtype=torch.int64)
    label = feedback.labels.to(feedback.losses.device, torch.int64, non_blocking=True)
    num_classes = label.max() + 1 if feedback.logits is None else feedback.logits.shape[1]
    return torch.where((label >= 0) & (label < num_classes), label, NO_CLASS)
