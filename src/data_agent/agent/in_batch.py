"""The agent inside each batch: for a single pass over the data, and for streams.

Where samples never come back, no table can be kept and no epoch planned: the policy acts on the
features of each pool, the highest actions are trained on, and it learns from the whole pool, whose
losses and uncertainties one forward pass has shown. That pass is paid for: a run costs
`1/3 + keep_ratio` of training on everything. On three single passes, training on that share of the
data without choosing was better (docs/streaming.md).

The policy, its reward and its learning are those of `data-agent`, of Yang et al. 2026, "Data Agent:
Learning to Select Data via End-to-End Dynamic Optimization" (ICML),
https://arxiv.org/abs/2603.07433. Scoring a batch by a forward pass and training on a part of it is
how Jiang et al. 2019, https://arxiv.org/abs/1910.00762, choose (`selective-backprop`).

Departures. The paper chooses whole epochs from a table of the last actions; here the actions are
those on the pool itself, and the rest is as in docs/method.md.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from data_agent.agent.config import DataAgentConfig
from data_agent.agent.policy import Policy
from data_agent.runtime import distributed
from data_agent.selecting.batch_selector import BatchSelector
from data_agent.selecting.block import Block, columns_of
from data_agent.selecting.feedback import Feedback, plain_arithmetic


class InBatchAgent(BatchSelector):
    """The same policy, rewards and learning as `DataAgent`, choosing inside each batch.

    Of the configuration, what concerns epochs and the table has no effect here: `schedule`,
    `ranking`, `explore`, `drift`, `label_rules`.

    Args:
        config: the agent's settings.
        base: as `BatchSelector`; for a stream, `num_samples` is what it will offer in the whole
            run and `epochs` is 1.

    Raises:
        InputError: a value outside its range.
    """

    name: ClassVar[str] = "data-agent-in-batch"
    needs_features = True

    def __init__(self, *, config: DataAgentConfig | None = None, **base: Any) -> None:
        super().__init__(**base)
        self.config = DataAgentConfig() if config is None else config
        self.policy = Policy(self.config, seed=self.seed, keep_ratio=self.keep_ratio)

    def score(self, feedback: Feedback) -> Tensor:
        """The policy's actions."""
        return self.policy.preview(self._rows_of(feedback))

    def remember(self, pool: Feedback) -> None:
        """Act on the whole pool: none of it was chosen, so it is a fair sample."""
        uniform = torch.ones(len(pool), dtype=torch.bool)
        self.policy.act(self._rows_of(pool), uniform, epoch=self.epoch or 0)

    def _rows_of(self, pool: Feedback) -> Feedback:
        """What the policy reads of a pool, in its precision."""
        columns = columns_of(self.policy.examine(pool), self.policy.reads)
        block = Block(columns, self.policy.precision, room=1)
        block.add(pool.index, columns)
        return block.feedback()

    def observe(self, feedback: Feedback) -> None:
        """As `BatchSelector.observe`; and update the policy where it is due."""
        size = 0 if self._offer is None else len(self._offer.pool)
        super().observe(feedback)
        # As many on every rank, whose pools may differ in size: updates are collective calls.
        size = self.schedule.batch_size or size
        if self.policy.count_step(size, self.schedule.total_visits):
            with (
                self._clock.running(),
                plain_arithmetic(feedback.losses.device),
                distributed.together("a policy update"),
            ):
                self.settle()
                self.policy.update(self.progress())

    def metrics(self) -> dict[str, float]:
        """As every batch selector; and tau, actions, reward weights, PPO diagnostics."""
        return {**super().metrics(), **self.policy.metrics()}

    def describe(self) -> str:
        """The policy and its reward."""
        return self.policy.describe()

    def settings(self) -> dict[str, Any]:
        """The share and the configuration."""
        return {**super().settings(), **self.policy.settings()}

    def method_state(self) -> dict[str, Any]:
        """Learner and counters."""
        return self.policy.state_dict()

    def load_method_state(self, state: dict[str, Any]) -> None:
        """Take over what `method_state` returned."""
        self.policy.load_state_dict(state)
