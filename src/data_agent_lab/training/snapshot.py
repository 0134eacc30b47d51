"""The state of a run: taken from all ranks, loaded on any number of them."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from data_agent.errors import CheckpointError
from data_agent.runtime import distributed
from data_agent_lab.runs.folder import RunFolder
from data_agent_lab.training.session import Session, seed_rank

CHECKPOINT_SECONDS = 300.0
"""Time of training between two checkpoints at most; what a kill may cost."""


class Checkpoints:
    """Writes a run's checkpoints, and knows when the last one has grown old.

    Args:
        session: the run.
        folder: where it is written.
    """

    def __init__(self, session: Session, folder: RunFolder) -> None:
        self._session = session
        self._folder = folder
        self._saved_at = time.monotonic()

    def is_due(self) -> bool:
        """Whether `CHECKPOINT_SECONDS` have passed since the last one, on this rank's clock."""
        return time.monotonic() - self._saved_at >= CHECKPOINT_SECONDS

    def save(self) -> None:
        """Write one, between optimizer steps; a collective call."""
        self._folder.save_checkpoint(session_state(self._session))
        self._saved_at = time.monotonic()


def session_state(session: Session) -> dict[str, Any]:
    """All that the rest of the run depends on, and what it has cost so far.

    Valid between optimizer steps: gradients are not part of it. On several ranks a collective call,
    and rank 0 holds the state of all; a sharded model is put together, so that the state does not
    tell how many ranks there were, or how they shared the model.
    """
    model, optimizer = session.model.state_dict(), session.optimizer.state_dict()
    if session.is_sharded:
        model, optimizer = distributed.whole(model), distributed.whole(optimizer)
    device = session.device
    return {
        "data_checksum": session.data_checksum,
        "model": model,
        "optimizer": optimizer,
        "scaler": session.scaler.state_dict(),
        "selector": session.selector.state_dict(),
        "position": asdict(session.position),
        "loss_sum": _of_all(session.loss_sum),
        "train_seconds": session.stopwatch.seconds,
        "train_cpu_seconds": session.stopwatch.cpu_seconds,
        "eval_seconds": session.eval_stopwatch.seconds,
        "cpu_rng": _of_all(torch.get_rng_state()),
        "cuda_rng": _of_all(torch.cuda.get_rng_state(device)) if device.type == "cuda" else None,
    }


def restore_session(session: Session, state: dict[str, Any]) -> None:
    """Continue where `session_state` was taken, on as many ranks or on another number.

    Raises:
        CheckpointError: the data or the model are not those of the checkpoint.
    """
    if state["data_checksum"] != session.data_checksum:
        raise CheckpointError(
            "the data have changed since the checkpoint was written: images or labels differ. "
            "Restore the data, or start over in another --output."
        )
    session.selector.load_state_dict(state["selector"])
    _load_model(session, state)
    session.scaler.load_state_dict(state["scaler"])
    for name, value in state["position"].items():
        setattr(session.position, name, value)
    if not session.is_floating:  # other ranks may leave out another rest
        session.position.num_steps = session.count_steps()
    parts = state["loss_sum"].view(-1)
    session.loss_sum.copy_(distributed.rows_to_resume(parts, [1] * len(parts)).sum())
    session.stopwatch.seconds = state["train_seconds"]
    session.stopwatch.cpu_seconds = state["train_cpu_seconds"]
    session.eval_stopwatch.seconds = state["eval_seconds"]
    _load_random_state(session, state)


def _load_model(session: Session, state: dict[str, Any]) -> None:
    """Model and optimizer; where ranks share the model, each takes its part."""
    model, optimizer = state["model"], state["optimizer"]
    if session.is_sharded:
        own = session.model.state_dict()
        model = {k: distributed.part_of(v, own[k]) if k in own else v for k, v in model.items()}
        parameters = dict(enumerate(session.model.parameters()))
        slots = {
            number: {k: _part_of_slot(v, parameters[number]) for k, v in slot.items()}
            for number, slot in optimizer["state"].items()
        }
        optimizer = {**optimizer, "state": slots}
    session.model.load_state_dict(model)
    session.optimizer.load_state_dict(optimizer)


def _part_of_slot(value: Any, parameter: Tensor) -> Any:
    return distributed.part_of(value, parameter) if isinstance(value, Tensor) else value


def _of_all(tensor: Tensor) -> Tensor:
    """One row a rank: `[ranks, ...]`; a collective call."""
    return distributed.gather_rows(tensor.unsqueeze(0))[0]


def _load_random_state(session: Session, state: dict[str, Any]) -> None:
    """Each rank's random generators go on; ranks that were not there begin with seeds of theirs."""
    number, (host, device) = distributed.rank(), (state["cpu_rng"], state["cuda_rng"])
    host = torch.atleast_2d(host)
    if number >= len(host):
        seed_rank(session.selector.seed, session.position.step)
        return
    torch.set_rng_state(host[number].clone())  # torch crashes on a view of another start
    if session.device.type == "cuda" and device is not None:
        torch.cuda.set_rng_state(torch.atleast_2d(device)[number].clone(), session.device)
