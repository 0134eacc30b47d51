"""How good a run's model is: on the evaluation samples, shared by all ranks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from data_agent_lab.training.ranks import added_up, own_part, share_buffers
from data_agent_lab.training.session import Session

EVAL_BATCH = 512


def evaluate(session: Session) -> tuple[float, float]:
    """Accuracy in percent, and mean loss, over the evaluation samples; a collective call.

    Where ranks shard the model, each batch is one forward pass on every rank, of an empty part if
    need be.
    """
    share_buffers(session.model)
    count = len(session.eval_labels)
    parts = [own_part(index) for index in torch.arange(count).split(EVAL_BATCH)]
    batches = [evaluate_batch(session, index) for index in parts]
    num_correct, loss_sum = added_up(*(sum(values) for values in zip(*batches, strict=True)))
    return 100 * num_correct / count, loss_sum / count


@torch.inference_mode()
def evaluate_batch(session: Session, index: Tensor) -> tuple[int, float]:
    """How many of the evaluation samples `index` are right, and the sum of their losses."""
    session.model.eval()
    labels = session.eval_labels[index.to(session.device)]
    with session.autocast():
        logits = session.model(session.batches.evaluation(index)).float()
    session.model.train()
    num_correct = int((logits.argmax(1) == labels).sum())
    return num_correct, float(F.cross_entropy(logits, labels, reduction="sum"))
