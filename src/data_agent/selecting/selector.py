"""The contract of every selection method, and all that methods have in common.

A method says what it remembers of each sample and which samples it wants (`Method`). `Selector`
keeps the exact budget and the phases, begins epochs, stages the running epoch's feedback, merges it
across ranks, weighs losses, and saves and restores.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

from torch import Tensor

from data_agent.budget.composition import Composed, Composition
from data_agent.budget.schedule import ScheduleKind, SelectionSchedule
from data_agent.errors import CheckpointError, InputError
from data_agent.runtime import distributed
from data_agent.runtime.clock import Stopwatch
from data_agent.runtime.masks import size_of
from data_agent.runtime.random import check_seed
from data_agent.runtime.shards import WHOLE, own_shard
from data_agent.runtime.state import STATE_VERSION, check_header, checksum
from data_agent.selecting.columns import Table
from data_agent.selecting.counting import CountsEpochs
from data_agent.selecting.epoch import CARRIES_OVER, RunningEpoch, warn_of_late_start
from data_agent.selecting.feedback import (
    Feedback,
    Selection,
    check_signal_names,
    checked_denominator,
    plain_arithmetic,
    require_graph,
)
from data_agent.selecting.method import Method
from data_agent.selecting.nonfinite import OnNonfinite
from data_agent.selecting.readings import Readings
from data_agent.selecting.recorder import Recorder
from data_agent.selecting.sharding import check_can_shard
from data_agent.selecting.statistics import SampleStatistics
from data_agent.selecting.taps import Watcher
from data_agent.selecting.trusted_rows import check_room, trusted_mask

logger = logging.getLogger("data_agent")

MOST_STATISTICS = 10_000_000  # samples; of more the tables of a method shall be all that is kept


class Selector(Watcher, Readings, CountsEpochs, Method):
    """Chooses the samples of each epoch; every method is one. To write one, see `Method`.

    Args:
        num_samples: N, length of the training dataset.
        epochs: E, epochs in the whole run.
        keep_ratio: share of the dataset visited in an epoch, in (0, 1].
        seed: seed of every draw.
        schedule: "exact", "paper", "uniform", "to-the-end", "static" or "floating", see
            `SelectionSchedule`; None takes the method's.
        on_nonfinite: what NaN or infinite values in a batch do: "raise" or "skip" (and count).
        trusted: int `[T]`, positions of rows that are in every epoch after the warm-up, whatever
            the method thinks of them; None for none.
        sharded: whether each rank keeps and chooses from every world-th sample only, see
            docs/decisions/0017-shards.md; the process group must be there.
        sample_statistics: whether what each sample showed is remembered for `table()`: 12 to 44
            bytes a sample, see `SampleStatistics`; never of a shard. None does so for up to
            `MOST_STATISTICS` samples.
        tables: what is remembered of each sample besides that and what the method records.

    Raises:
        InputError: a value outside its range.
    """

    def __init__(
        self,
        *,
        num_samples: int,
        epochs: int,
        keep_ratio: float,
        seed: int = 0,
        schedule: ScheduleKind | None = None,
        on_nonfinite: OnNonfinite = "raise",
        trusted: Tensor | Sequence[int] | None = None,
        sharded: bool = False,
        sample_statistics: bool | None = None,
        tables: tuple[Table, ...] = (),
    ) -> None:
        check_seed(seed)
        if on_nonfinite not in ("raise", "skip"):
            raise InputError(f"on_nonfinite is {on_nonfinite!r}; expected 'raise' or 'skip'.")
        super().__init__(
            SelectionSchedule(
                num_samples=num_samples,
                epochs=epochs,
                keep_ratio=keep_ratio,
                kind=self.default_schedule if schedule is None else schedule,
                explore=self.explore,
            )
        )
        self.seed = seed
        self._shard = WHOLE
        if sharded:
            check_can_shard(self, self.schedule, by_rules=bool(tables) or trusted is not None)
            self._shard = own_shard()
            if num_samples < self._shard.world:
                raise InputError(
                    f"num_samples is {num_samples}, and {self._shard.world} ranks need one each."
                )
        self.order_seed = self._shard.seed(seed)
        """Of the order in which this rank's batches come; another one for each shard."""
        self._clock = Stopwatch()
        self._on_nonfinite: OnNonfinite = on_nonfinite
        remembers = (
            num_samples <= MOST_STATISTICS if sample_statistics is None else sample_statistics
        )
        remembers = remembers and not self._shard.is_part
        self._statistics = SampleStatistics(num_samples) if remembers else None
        self._tables = tables if self._statistics is None else (*tables, self._statistics)
        self._recorder = Recorder(self, self._tables, on_nonfinite, num_samples)
        self.trusted = None if trusted is None else trusted_mask(trusted, num_samples)
        """Bool `[N]`, rows that are in every epoch after the warm-up; None for none."""
        self._compose()
        self.schedule.warn_if_nothing_is_selected()

    # Epochs.

    def begin_epoch(self, epoch: int) -> None:
        """Merge the last epoch's feedback and choose the samples of `epoch`.

        Beginning the running epoch again changes nothing. On several ranks a collective call.

        Raises:
            InputError: no such epoch, or the ranks' selectors differ.
            StateError: `epoch` has passed, or no batch of the last epoch was observed.
        """
        self.forget_forward()  # of a search for a learning rate, or of a step that was cut short
        self.schedule.plan(epoch)
        distributed.check_world(self.schedule.world, is_known=self.schedule.batch_size is not None)
        if self._running is not None:
            if epoch == self._running.epoch:
                return
            with distributed.together(f"begin_epoch({epoch})"), distributed.failing_together():
                self._running.check_next(epoch, self.own)
        elif epoch > 0:
            warn_of_late_start(epoch)
        with self._clock.running(), distributed.together(f"begin_epoch({epoch})"):
            self.settle()
            if (ended := self._running) is not None:
                self.epoch_ends(ended.epoch, self._shard.places(ended.selection.index))
            with self._own_rows():
                self._recorder.merge(self._shard)
            if ended is None:
                if not self._shard.is_part:
                    distributed.check_alike(self._header(), "selectors")
                logger.info("%s: %s.", self.name, self.describe())
            composed, selection = self._compute_selection(epoch, self._left_over())
            self._recorder.staging.clear()
            self._running = RunningEpoch(
                *(epoch, selection, composed.uniform, self.own),
                displaced=self._shard.samples(composed.displaced),
                first=None if composed.first is None else self._shard.samples(composed.first),
            )
        self._just_restored = False

    def close_epoch(self) -> None:
        """As `CountsEpochs.close_epoch`; and settle the last rows, and warn of their labels."""
        super().close_epoch()
        if self._running is not None:
            with self._clock.running(), distributed.together("close_epoch()"):
                self.settle()
                self._recorder.check()

    def select(self, epoch: int) -> Selection:
        """The samples of `epoch`, from the table as it is now; changes no state.

        Of a sharded selector those of this rank, of any other those of all ranks.
        """
        if self._running is not None and self._running.epoch == epoch:
            return self._running.selection
        return self._compute_selection(epoch)[1]

    # Batches.

    def learn(
        self,
        losses: Tensor,
        index: Tensor,
        *,
        labels: Tensor | None = None,
        logits: Tensor | None = None,
        features: Tensor | None = None,
        uncertainty: Tensor | None = None,
        denominator: Tensor | float | None = None,
        **signals: Tensor,
    ) -> Tensor:
        """Observe a batch and return the loss to backpropagate.

        The mean over samples is not what `cross_entropy` returns with `weight=` or where labels are
        ignored: it divides by the weights of the labels that count. Hand that sum over as
        `denominator`: `weight[labels].sum()`, `(labels != -100).sum()`.

        Args:
            losses: float `[B]` with a graph, one loss a sample.
            index: int64 `[B]`, the samples' positions, as the loader delivered them.
            labels: int64 `[B]`, if a reward uses them.
            logits: `[B, C]`, or `[B]` of a single logit; by default from the watched module.
            features: `[B, D]`; by default from the watched module.
            uncertainty: `[B]` in [0, 1], where the task has its own.
            denominator: what the sum of the losses is divided by, > 0; None is B. Each rank's own,
                as in a loop without us: DDP then averages the ranks' gradients.
            signals: further `[B]` values by name, for rewards of one's own.

        Returns:
            `sum(w_i l_i) / denominator`, a scalar in the dtype of `losses`; weights are one unless
            the method weighs samples.

        Raises:
            InputError: a tensor of another shape, dtype or range, or a signal that looks like a
                mistyped argument; our state is as before.
            StateError: no epoch has begun, or losses carry no graph.
        """
        if signals:
            check_signal_names(signals)
        if isinstance(index, Tensor):
            index = index.cpu()  # once: if a framework moved it, each access waits
        try:
            feedback = Feedback(index, losses, logits, features, labels, uncertainty, signals)
            loss = self.weighted_mean(losses, index, denominator)
            self.observe(self.complete(feedback))
        finally:
            self.forget_forward()  # after an error too: the next forward is another batch's
        return loss

    def observe(self, feedback: Feedback) -> None:
        """Learn from a batch; no graph is needed.

        Raises:
            InputError: an index outside of the dataset, or non-finite values (on an accelerator
                these are reported at the next policy update or epoch, or when the run ends).
            StateError: no epoch has begun, or the running one is over.
        """
        running = self._open_epoch()
        running.check_open(self.own)
        with self._clock.running(), plain_arithmetic(feedback.losses.device):
            if feedback.index.device.type != "cpu":
                feedback = replace(feedback, index=feedback.index.cpu())
            index = feedback.index
            running.check_resumed(index, self.own, self.order_seed)
            places = running.places(index, self.own)
            self._recorder.take_in(feedback)
            running.observed.mark(places)
            running.num_observed += (size := len(feedback))
            running.is_restored = False
            self._visits += size
            self.after_observe(size)

    def settle(self) -> None:
        """Let the method act on all rows that came, and report those that were not finite.

        On several ranks a collective call.

        Raises:
            InputError: there are some, on any rank, and `on_nonfinite` is "raise".
        """
        self._recorder.act()
        self._recorder.staging.check()

    def weighted_mean(
        self, losses: Tensor, index: Tensor, denominator: Tensor | float | None = None
    ) -> Tensor:
        """`sum(w_i l_i) / denominator` in the dtype of `losses`.

        By default over B: `losses.mean()` where weights are one.
        """
        require_graph(losses)
        if denominator is not None:
            denominator = checked_denominator(denominator, losses)
        weights = self.weights_of(index)
        if weights is None:
            return losses.mean() if denominator is None else losses.sum() / denominator
        weights = weights.to(losses.device, losses.dtype, non_blocking=True)
        return (weights * losses).sum() / (len(losses) if denominator is None else denominator)

    def weights_of(self, index: Tensor) -> Tensor | None:
        """Weights float32 `[B]` of samples of the running epoch, on the host; None means ones."""
        return self._open_epoch().selection.weights_of(index.cpu())

    # State.

    @distributed.together("state_dict()")
    def state_dict(self) -> dict[str, Any]:
        """All that the rest of the run depends on; loads with `torch.load(weights_only=True)`.

        On several ranks a collective call: every rank makes it and holds the state of all; one of
        them writes it. It loads on every rank, on any number of ranks. Of a sharded selector each
        rank holds, writes and loads a piece of its own; `reshard` makes pieces for other ranks.
        """
        running = self._running
        if self._shard.is_part and running is not None and running.is_over(self.own):
            self._recorder.act()  # as the next epoch would; its rows can then go to any rank
        with self._own_rows():
            rows = self._recorder.state_dict()
        return {
            "version": STATE_VERSION,
            **self._header(),
            "visits": self._total_visits(),
            "overhead_seconds": self.overhead_seconds,
            **rows,
            "running": running and running.state_dict(self.own),
            "tables": {table.name: table.state_dict() for table in self._tables},
            "method": self.method_state(),
        }

    @distributed.together("load_state_dict()")
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken, on every rank; after an error nothing has changed.

        Raises:
            CheckpointError: the state is damaged, newer than this version, or of another run.
        """
        with distributed.failing_together():
            check_header(state, self._header())
        before = self.state_dict()
        try:
            self._load(state)
        except Exception as error:  # whatever a damaged state leads to
            self._load(before)
            raise CheckpointError(f"this state cannot be loaded: {error}") from error
        # After an epoch that was observed to its end, a loader that is asked for batches before the
        # next one begins (by Lightning) must deliver those of the next one.
        if self._just_restored and self.epoch != (due := self._next_epoch()):
            if due < self.schedule.epochs:
                self.begin_epoch(due)
            self._just_restored = True

    def _load(self, state: dict[str, Any]) -> None:
        self.load_method_state(state["method"])
        for table in self._tables:
            table.load_state_dict(state["tables"][table.name])
        self._visits, self._visits_before = 0, int(state["visits"])
        self._clock.seconds = float(state["overhead_seconds"])
        self._epoch_shift = 0
        saved = state["running"]
        self._running = None
        if saved is not None:
            self._running = RunningEpoch.from_state(saved, self.own, self.seed)
        self._just_restored = self._running is not None
        with self._own_rows():
            self._recorder.load_state_dict(state)

    # Helpers.

    def _compose(self) -> None:
        if self.trusted is not None:
            check_room(int(self.trusted.sum()), self.schedule)
        self.own = self.schedule.for_shard(self._shard)
        self._composition = Composition(self.own, self.seed, self.trusted)

    def _own_rows(self) -> AbstractContextManager[None]:
        """Rows of feedback are exchanged in the block, unless each rank keeps those of its own."""
        return distributed.alone() if self._shard.is_part else nullcontext()

    def _header(self) -> dict[str, object]:
        """What must be equal for a state to be of this run."""
        return {
            "selector": self.name,
            "num_samples": self.schedule.num_samples,
            "epochs": self.schedule.epochs,
            "keep_ratio": self.schedule.keep_ratio,
            "drop_last": self.schedule.drop_last,
            "schedule": self.schedule.kind,
            "seed": self.seed,
            "trusted": None if self.trusted is None else checksum(self.trusted),
            "sample_statistics": self._statistics is not None,
            "settings": self.settings(),
            **({"shard": [self._shard.rank, self._shard.world]} if self._shard.is_part else {}),
        }

    def _left_over(self) -> Tensor | None:
        """What the running epoch did not train on, where samples can come first; collective."""
        if self._running is None or self.schedule.kind not in CARRIES_OVER:
            return None
        return self._shard.places(self._running.left_over(self.own, self.order_seed))

    def _compute_selection(
        self, epoch: int, first: Tensor | None = None
    ) -> tuple[Composed, Selection]:
        composed = self._composition.compose(epoch, self.choose, first)
        weights = None
        if composed.uniform is not None and size_of(composed.excluded) < len(composed.index):
            weights = self.weigh(epoch, composed.index, composed.excluded)
        return composed, Selection(self._shard.samples(composed.index), weights)
