"""The epoch that has begun: its selection, and what became of it on this rank."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from data_agent._errors import CheckpointError, DataAgentWarning, StateError
from data_agent._messages import Selection
from data_agent._schedule import SelectionSchedule
from data_agent._state import pack_mask, unpack_mask

OBSERVED_SHARE = 0.9  # below it a loop forgets to observe some of its batches


@dataclass(slots=True)
class RunningEpoch:
    """Counts samples of one epoch; duplicates that a framework pads with count as well.

    Args:
        epoch: its number.
        selection: its samples, over all ranks.
        uniform: bool `[N]`, those that are in it whatever the method thinks of them; None for all.
        num_observed: samples observed on this rank.
        num_delivered: samples that a loader took on this rank.
        resume_at: samples that were observed before a restore; the sampler begins behind them.
    """

    epoch: int
    selection: Selection
    uniform: Tensor | None
    num_observed: int = 0
    num_delivered: int = 0
    resume_at: int = 0

    def is_complete(self, schedule: SelectionSchedule, rank: int) -> bool:
        """Whether all of this rank's samples were observed."""
        return self.num_observed >= schedule.rank_size(len(self.selection), rank)

    def check_open(self, limit: int) -> None:
        """An epoch that is over must not be fed for ever.

        Args:
            limit: this rank's samples, and those that a framework may repeat to fill batches.

        Raises:
            StateError: so many were observed already.
        """
        if self.num_observed >= limit:
            raise StateError(
                f"epoch {self.epoch} has {len(self.selection)} samples and all were observed; more "
                "came. The next epoch was never begun: loop over agent.epochs(), or call "
                "agent.set_epoch(epoch) once an epoch."
            )

    def check_observed(self) -> None:
        """A forgotten learn() must not switch the product off silently.

        Raises:
            StateError: batches were delivered and none was observed.
        """
        if self.num_delivered and not self.num_observed:
            raise StateError(
                f"epoch {self.epoch} delivered {self.num_delivered} samples and not one batch was "
                "observed. Call agent.learn(losses, index) for each batch (or "
                "agent.observe(Feedback(...)))."
            )
        if not self.num_delivered and not self.num_observed:
            warn(f"epoch {self.epoch} had no batch: is the loader made for this selector?")
        elif self.num_observed < OBSERVED_SHARE * self.num_delivered:
            warn(
                f"in epoch {self.epoch} {self.num_delivered} samples were delivered, but only "
                f"{self.num_observed} observed. Call agent.learn(losses, index) for every batch."
            )

    def state_dict(self, num_samples: int) -> dict[str, Any]:
        """The selection as one bit a sample, and the position."""
        return {
            "epoch": self.epoch,
            "num_observed": self.num_observed,
            "selection": pack_mask(self.selection.index, num_samples),
            "weights": self.selection.weights,
        }

    @classmethod
    def from_state(
        cls, state: dict[str, Any], schedule: SelectionSchedule, uniform: Tensor | None
    ) -> RunningEpoch:
        """Take over what `state_dict` returned.

        Raises:
            CheckpointError: the selection has another size than the epoch.
        """
        epoch, observed = int(state["epoch"]), int(state["num_observed"])
        index = unpack_mask(state["selection"], schedule.num_samples)
        expected = schedule.epoch_size(epoch)
        if len(index) > expected or (len(index) < expected and schedule.kind != "floating"):
            raise CheckpointError(f"its selection of epoch {epoch} holds {len(index)} samples.")
        if observed < 0:
            raise CheckpointError(f"its position in epoch {epoch} is {observed}.")
        weights = state["weights"]
        if weights is not None and weights.shape != index.shape:
            raise CheckpointError(f"its selection of epoch {epoch} has {len(weights)} weights.")
        selection = Selection(index, weights)
        return cls(epoch, selection, uniform, observed, observed, observed)


def warn(message: str) -> None:
    """A `DataAgentWarning` at the line of the caller's caller."""
    warnings.warn(message, DataAgentWarning, stacklevel=5)
