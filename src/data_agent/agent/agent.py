"""The agent: ties signals, learner and table together; owns no formula."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from data_agent.agent.config import DataAgentConfig
from data_agent.agent.policy import Policy
from data_agent.agent.table import ActionTable, ParameterTable, SampleTable
from data_agent.errors import CheckpointError
from data_agent.labels.classes import ClassTable
from data_agent.runtime import distributed
from data_agent.runtime.random import Purpose, derived_seed, permutation
from data_agent.runtime.state import require_tensor
from data_agent.selecting.epoch import warn
from data_agent.selecting.feedback import Feedback
from data_agent.selecting.nonfinite import OnNonfinite
from data_agent.selecting.selector import Selector


class DataAgent(Selector):
    """A policy that learns, while a model trains, which samples to train on next.

    Args:
        num_samples: N, length of the training dataset.
        epochs: E, epochs in the whole run.
        keep_ratio: share of the dataset visited in an epoch, in (0, 1].
        seed: seed of every draw; nobody's global random state is touched.
        config: the agent's settings; `DataAgentConfig.paper()` is the algorithm as published.
        on_nonfinite: what NaN or infinite values in a batch do: "raise" or "skip" (and count).

    Raises:
        InputError: a value outside its range.

    Paper:
        "Data Agent: Learning to Select Data via End-to-End Dynamic Optimization", ICML 2026,
        https://arxiv.org/abs/2603.07433; departures are listed in docs/method.md.
    """

    name: ClassVar[str] = "data-agent"
    needs_features: ClassVar[bool] = True

    def __init__(
        self,
        num_samples: int,
        epochs: int,
        *,
        keep_ratio: float = 0.5,
        seed: int = 0,
        config: DataAgentConfig | None = None,
        on_nonfinite: OnNonfinite = "raise",
    ) -> None:
        self.config = DataAgentConfig() if config is None else config
        self.policy = Policy(self.config, seed=seed, keep_ratio=keep_ratio)
        self.explore = self.config.explore
        super().__init__(
            num_samples=num_samples,
            epochs=epochs,
            keep_ratio=keep_ratio,
            seed=seed,
            schedule=self.config.schedule,
            on_nonfinite=on_nonfinite,
        )
        self._table = self._make_table()
        self._classes = self._make_classes()
        self._queue = permutation(num_samples, seed, Purpose.UNIFORM).to(torch.int32)

    def choose(self, epoch: int, count: int, excluded: Tensor) -> Tensor:
        """The policy's part by highest action, the rest by turns; classes and suspects permitting.

        Whose turn it is: theirs that were in no epoch for longest. Without labels the policy's part
        is everything, but nothing in the final phase.
        """
        if self.schedule.plan(epoch).phase == "final":
            num_ranked = 0
        elif self._classes.is_empty:
            num_ranked = count
        else:
            num_ranked = math.floor(self.config.policy_share * count + 0.5)
        taken, parts = excluded.clone(), list[Tensor]()
        tie_seed = derived_seed(self.seed, Purpose.TIE, epoch)
        for num_wanted, scores_of in (
            (num_ranked, lambda: self._table.scores(epoch)),
            (count - num_ranked, self._turns),
        ):
            if num_wanted:
                chosen = self._classes.choose(scores_of(), num_wanted, taken, tie_seed=tie_seed)
                taken[chosen] = True
                parts.append(chosen)
        return torch.cat(parts)

    def record(self, feedback: Feedback) -> Tensor:
        """Let the policy act on the batch; its action or its parameters go to the table.

        Where it ranks nothing it is not asked, and costs nothing: its rows are those of the prior.
        """
        if feedback.labels is not None and not self.config.policy_share:
            if self.visits == 0 and self.config.signals != DataAgentConfig().signals:
                warn(
                    "labels came, and where they come the policy ranks nothing, so these signals "
                    "reward nobody. To rank by them set DataAgentConfig(policy_share=1.0)."
                )
            rows = self._table.rows(*_prior(feedback))
        else:
            acted = self.policy.act(feedback, self.uniform_rows(feedback.index))
            rows = self._table.rows(*acted)
        return torch.cat([rows, self._classes.rows(feedback).to(rows.device)], dim=1)

    def after_observe(self, num_rows: int) -> None:
        """Update the policy where it is due."""
        if self.policy.count_step(self.schedule.batch_size or num_rows):
            with distributed.together("a policy update"):
                self._staging.check()
                self.policy.update(self._total_visits() / self.schedule.total_visits)

    def merge(self, index: Tensor, values: Tensor) -> None:
        """Take the last epoch's rows into the tables; those in it queue up again."""
        if self._running is not None:
            self._queue = _queued_again(self._queue, self._running.selection.index)
        acted, seen = values.tensor_split((values.shape[1] - self._classes.width,), dim=1)
        self._table.merge(index, acted)
        self._classes.merge(index, seen)

    def metrics(self) -> dict[str, float]:
        """As every selector; and suspects, tau, actions, reward weights, PPO, kept/unkept."""
        metrics = {**super().metrics(), **self.policy.metrics()}
        metrics["suspected_share"] = self._classes.suspected_share
        if self._running is not None:
            kept, unkept = self._kept_and_unkept()
            metrics["kept_mean_action"] = float(kept.mean())
            metrics["unkept_mean_action"] = float(unkept.mean()) if len(unkept) else math.nan
        return metrics

    def summary(self) -> str:
        """One line for a person."""
        return super().summary() + self.policy.summary()

    def expected_actions(self) -> Tensor:
        """float32 `[N]`: E[a_i] of each sample under the policy at its last visit.

        As of the running epoch's beginning, when the last epoch's feedback was merged.
        """
        return self._table.expected_actions()

    def suspects(self) -> Tensor:
        """Bool `[N]`: samples whose label is not believed, worth a look by a person.

        Known for samples whose labels and logits came; as of the running epoch's beginning. See
        `data_agent.labels.classes`.
        """
        return self._classes.suspects()

    def action_histogram(self, bins: int = 20) -> Tensor:
        """int64 `[bins]`: how many samples have an expected action in each part of [0, 1]."""
        actions = self._table.expected_actions()
        return torch.histc(actions, bins=bins, min=0, max=1).to(torch.int64)

    def settings(self) -> dict[str, Any]:
        """The configuration, signals by name."""
        return self.policy.settings()

    def method_state(self) -> dict[str, Any]:
        """Tables, learner, counters."""
        return {
            "table": self._table.state_dict(),
            "classes": self._classes.state_dict(),
            "queue": self._queue.clone(),
            **self.policy.state_dict(),
        }

    def load_method_state(self, state: dict[str, Any]) -> None:
        """Take over what `method_state` returned."""
        size = self.schedule.num_samples
        queue = require_tensor(state, "queue", shape=(size,), dtype=torch.int32)
        if not queue.sort().values.equal(torch.arange(size, dtype=torch.int32)):
            raise CheckpointError("its queue does not hold every sample once.")
        self._queue = queue
        self._table.load_state_dict(state["table"])
        self._classes.load_state_dict(state["classes"])
        self.policy.load_state_dict(state)

    def _make_table(self) -> SampleTable:
        if self.config.ranking == "last-action":
            return ActionTable(self.schedule.num_samples)
        return ParameterTable(self.schedule.num_samples, seed=self.seed, drift=self.config.drift)

    def _turns(self) -> Tensor:
        """Scores float32 `[N]`: the further ahead in the queue, the higher."""
        scores = torch.empty(len(self._queue), dtype=torch.float32)
        scores[self._queue] = -torch.arange(len(self._queue), dtype=torch.float32)
        return scores

    def _make_classes(self) -> ClassTable:
        return ClassTable(
            self.schedule.num_samples,
            balance=self.config.class_balance,
            drop_suspects=self.config.drop_suspects,
        )

    def _kept_and_unkept(self) -> tuple[Tensor, Tensor]:
        assert self._running is not None
        actions = self._table.expected_actions()
        kept = torch.zeros(len(actions), dtype=torch.bool)
        kept[self._running.selection.index] = True
        return actions[kept], actions[~kept]


def _queued_again(queue: Tensor, index: Tensor) -> Tensor:
    """The queue with the samples of `index` behind all others, in the order they had."""
    visited = torch.zeros(len(queue), dtype=torch.bool).index_fill_(0, index, True)
    goes_back = visited.index_select(0, queue)
    return torch.cat([queue[~goes_back], queue[goes_back]])


def _prior(feedback: Feedback) -> Tensor:
    """`[3, B]`: alpha, beta and the mean action of Beta(1, 1)."""
    one = torch.ones(len(feedback), dtype=torch.float32, device=feedback.losses.device)
    return torch.stack([one, one, one / 2])
