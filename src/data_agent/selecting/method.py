"""What a selection method defines; `Selector` does the rest."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from data_agent.budget.schedule import ScheduleKind, SelectionSchedule
from data_agent.errors import InputError
from data_agent.runtime.names import ChecksNames
from data_agent.selecting.feedback import Feedback
from data_agent.selecting.proxy import Proxy


class Method(ChecksNames):
    """The part of a selector that differs from method to method.

    `choose` returns the wanted samples; `record` says what to remember of a batch; `merge` takes
    it into the method's own table when the next epoch begins. Only `name` and `choose` are needed.
    """

    name: ClassVar[str]
    """What `make_selector`, reports and saved states call it."""

    default_schedule: ClassVar[ScheduleKind] = "exact"
    """The schedule where none is asked for."""

    explore: float = 0.0
    """Share of a selected epoch that is drawn uniformly, see `SelectionSchedule`."""

    required: ClassVar[tuple[str, ...]] = ()
    """Options it cannot be built without: "labels", "groups" (int64 `[N]`) or "scores" (float)."""

    needs_labels: ClassVar[bool] = False
    """Whether every batch must bring labels, so that it has no place where samples have none."""

    needs_logits: ClassVar[bool] = False
    """Whether it reads the scores of a sample's classes, so that it has no place where samples have
    no classes."""

    needs_features: bool = False
    """Whether it cannot learn from a batch without features: frameworks then look for the head."""

    reads: tuple[str, ...] | None = None
    """What of a `Feedback` its `record` reads besides the losses, row by row ("logits", "features",
    "labels", "uncertainty", "signals"): it is then called with the rows of many batches at once.
    None: it is called with each batch as it comes, which on an accelerator is waited for."""

    precision: torch.dtype = torch.float32
    """Of the floating-point values that `record` gets, whatever the model computes in."""

    can_shard: ClassVar[bool] = False
    """Whether ranks can share its table: `choose` and `merge` then get places in this rank's part
    of the samples, of which there are `own.num_samples`, and draws are those of `own.shard`."""

    looks_first: bool = False
    """Whether `examine` must see finite values only; on an accelerator each batch is waited for."""

    def describe(self) -> str:
        """Which algorithm runs, and what of it is off and why: a clause for logs and summaries."""
        return f"method {self.name}"

    @classmethod
    def prepare(cls, proxy: Proxy, budget: SelectionSchedule) -> dict[str, Tensor]:
        """Make the options that are `required`, before training; by default only the labels.

        Args:
            proxy: short trainings of the run's model.
            budget: of the run, as it was asked for; loaders may lower it a little.

        Returns:
            The options by name, one value a sample each.

        Raises:
            InputError: it needs more than labels and does not define this method.
        """
        del budget
        if missing := [name for name in cls.required if name != "labels"]:
            options = ", ".join(f"{name}=..." for name in missing)
            raise InputError(
                f"method {cls.name!r} needs {' and '.join(missing)} and does not say how they are "
                "made. Define the classmethod prepare(cls, proxy, budget) (docs/extending.md), or "
                f"build the selector in your own loop with make_selector(..., {options})."
            )
        return {name: proxy.labels for name in cls.required}

    def settings(self) -> dict[str, Any]:
        """Plain values that must be equal for a saved state to belong to this method."""
        return {}

    def choose(self, epoch: int, count: int, excluded: Tensor) -> Tensor:
        """The `count` samples wanted in `epoch`, changing no state.

        Args:
            epoch: the epoch, in [0, E).
            count: how many, in [1, N less the excluded].
            excluded: bool `[N]`, samples that are in the epoch already.

        Returns:
            int64 `[count]`, distinct, none of them excluded; fewer only in a floating schedule.
            Or a bool `[N]` that marks as many: with very many samples that is faster.
        """
        del epoch, count, excluded
        raise NotImplementedError(f"{type(self).__name__} must define choose().")

    def examine(self, feedback: Feedback) -> Feedback:
        """Check a batch when it comes; what `record` would refuse later is refused here.

        Changes no state. Returns the batch as `record` shall see it.
        """
        return feedback

    def record(self, feedback: Feedback) -> Tensor | None:
        """What to remember of rows: float `[B, width]` on the feedback's device, or None.

        Gets copies of finite rows: those of one batch, or, where `reads` says what it needs, those
        of many. Runs without gradients and without autocast. Must check what it needs before it
        changes anything.
        """
        del feedback
        return None

    def merge(self, index: Tensor, values: Tensor) -> None:
        """Take the last epoch's rows of all ranks into the table, when the next epoch begins.

        Args:
            index: int64 `[M]`, distinct.
            values: float32 `[M, width]`, what `record` returned for them.
        """
        del index, values

    def epoch_ends(self, epoch: int, index: Tensor) -> None:
        """Called when the next epoch begins, before `merge`: whose samples were in the last one.

        All is known still that was when they were chosen, and nothing else.

        Args:
            epoch: the epoch that is over.
            index: int64 `[K]`, all its samples, observed or not, ascending.
        """
        del epoch, index

    def weigh(self, epoch: int, index: Tensor, excluded: Tensor) -> Tensor | None:
        """The factor of each sample's loss in `epoch`, changing no state; None for ones.

        Args:
            epoch: the epoch, in [0, E); one in which `choose` was asked.
            index: int64 `[K]`, all its samples, ascending.
            excluded: bool `[N]`, those of them that `choose` did not choose.

        Returns:
            float32 `[K]`, not negative, with mean one.
        """
        del epoch, index, excluded
        return None

    def sample_scores(self) -> Tensor | None:
        """What the method ranks samples by now: float `[N]` on the host, or None.

        For people to see, in `table()`; not finite where a sample has none yet.
        """
        return None

    def method_state(self) -> dict[str, Any]:
        """The method's own state, of tensors, numbers, strings, lists and dicts."""
        return {}

    def load_method_state(self, state: dict[str, Any]) -> None:
        """Take over what `method_state` returned; a CheckpointError if it does not fit."""
        del state

    def after_observe(self, num_rows: int) -> None:
        """Called at the end of each `observe`, for work that is done every few steps."""
        del num_rows
