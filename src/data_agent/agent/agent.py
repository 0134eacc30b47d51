"""The agent: a policy learns, while a model trains, which samples to train on next.

Yang et al. 2026, "Data Agent: Learning to Select Data via End-to-End Dynamic Optimization" (ICML),
https://arxiv.org/abs/2603.07433. The policy reads each sample's feature, and PPO rewards it for
choosing samples that are difficult and uncertain; with trusted rows the reward is learned from
them. This file ties signals, learner and table together, and owns no formula.

Departures. The budget is exact, the reward is centred on its price, a tenth of each chosen epoch is
uniform, and updates are small and frequent. All of them, with their reasons, and every equation are
in docs/method.md; `DataAgentConfig.paper()` is the algorithm as published.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from data_agent.agent.config import DataAgentConfig
from data_agent.agent.policy import Policy
from data_agent.agent.table import ActionTable, ParameterTable, SampleTable
from data_agent.errors import InputError
from data_agent.labels.ruled import RuledSelector
from data_agent.labels.turns import Turns
from data_agent.runtime import distributed
from data_agent.selecting.feedback import Feedback
from data_agent.selecting.nonfinite import OnNonfinite
from data_agent.selecting.trusted_rows import trusted_mask
from data_agent.trusted.policy import TrustedConfig, TrustedPolicy
from data_agent.trusted.table import LikenessTable


class DataAgent(RuledSelector):
    """A policy that learns, while a model trains, which samples to train on next.

    With trusted rows no PPO runs: the reward is learned from these rows, and draws go by it.

    Args:
        num_samples: N, length of the training dataset.
        epochs: E, epochs in the whole run.
        keep_ratio: share of the dataset visited in an epoch, in (0, 1].
        seed: seed of every draw; nobody's global random state is touched.
        config: the agent's settings; `DataAgentConfig.paper()` is the algorithm as published.
        trusted: int `[T]`, positions of rows that look like what the model will be judged on, with
            right labels. They are in every selected epoch, and the reward is learned from how they
            differ, to the model in training, from other rows. With a `TrustedConfig` as `config`,
            or None.
        on_nonfinite: what NaN or infinite values in a batch do: "raise" or "skip" (and count).
        sharded: whether each rank keeps and chooses from every world-th sample only, see
            docs/distributed.md; for more samples than one machine shall remember.
        sample_statistics: whether what each sample showed is remembered for `table()`; None does
            so for up to ten million samples.

    Raises:
        InputError: a value outside its range.

    Paper:
        "Data Agent: Learning to Select Data via End-to-End Dynamic Optimization", ICML 2026,
        https://arxiv.org/abs/2603.07433; departures are listed in docs/method.md.
    """

    name: ClassVar[str] = "data-agent"
    needs_features = True
    can_shard: ClassVar[bool] = True

    def __init__(
        self,
        num_samples: int,
        epochs: int,
        *,
        keep_ratio: float = 0.5,
        seed: int = 0,
        config: DataAgentConfig | TrustedConfig | None = None,
        trusted: Tensor | Sequence[int] | None = None,
        on_nonfinite: OnNonfinite = "raise",
        sharded: bool = False,
        sample_statistics: bool | None = None,
    ) -> None:
        budget: dict[str, Any] = {"num_samples": num_samples, "epochs": epochs, "seed": seed}
        budget.update(keep_ratio=keep_ratio, on_nonfinite=on_nonfinite, trusted=trusted)
        budget.update(sharded=sharded, sample_statistics=sample_statistics)
        self.config: Any = config
        """A DataAgentConfig, or with trusted rows a TrustedConfig."""
        self.policy: Any
        """A Policy, or with trusted rows a TrustedPolicy."""
        if trusted is None:
            if isinstance(config, TrustedConfig):
                raise InputError(
                    "config is a TrustedConfig, and trusted= is missing. Pass the positions of the "
                    "trusted rows (trusted=rows); without such rows take a DataAgentConfig."
                )
            self.config = DataAgentConfig() if config is None else config
            self.policy = Policy(self.config, seed=seed, keep_ratio=keep_ratio)
            budget.update(schedule=self.config.schedule, label_rules=self.config.label_rules)
        else:
            self.config = TrustedConfig() if config is None else config
            is_trusted = trusted_mask(trusted, num_samples)
            self.policy = TrustedPolicy(self.config, is_trusted, seed=seed)
            budget["schedule"] = "to-the-end"
            self.needs_features = False
        self.explore = self.config.explore
        self.reads = self.policy.reads
        self.precision = self.policy.precision
        self.looks_first = self.policy.has_own_signals
        super().__init__(**budget)
        self._table = self._make_table()
        takes_turns = trusted is None and self.schedule.kind == "to-the-end"
        self._turns = Turns(num_samples, seed) if takes_turns else None

    def choose(self, epoch: int, count: int, excluded: Tensor) -> Tensor:
        """The highest actions that the rules allow; in the final phase those whose turn it is."""
        if self._turns is not None and self.schedule.plan(epoch).phase == "final":
            return self.take_by_turns(self._turns, epoch, count, excluded)
        return self.take_highest(self._table.scores(epoch), epoch, count, excluded)

    def examine(self, feedback: Feedback) -> Feedback:
        """Features reduced, signals of the user's computed; what the policy cannot use is refused.

        Raises:
            InputError: no features came, or of another width, or a signal is not `[B]` in [0, 1].
        """
        return self.policy.examine(feedback)

    def record(self, feedback: Feedback) -> Tensor:
        """Let the policy act on the rows; its actions or its parameters go to the table."""
        uniform = self.uniform_rows(feedback.index)
        return self._table.rows(*self.policy.act(feedback, uniform, epoch=self.epoch or 0))

    def after_observe(self, num_rows: int) -> None:
        """Update the policy where it is due."""
        rows_a_step = self.schedule.batch_size or num_rows
        if self.policy.count_step(rows_a_step, self.schedule.total_visits):
            with distributed.together("a policy update"):
                self.settle()
                self.policy.update(self._total_visits() / self.schedule.total_visits)

    def merge(self, index: Tensor, values: Tensor) -> None:
        """Take the last epoch's rows into the table."""
        self._table.merge(index, values)

    def epoch_ends(self, epoch: int, index: Tensor) -> None:
        """In the final phase, and only there, samples take turns: its first epoch is fair."""
        if self._turns is not None and self.schedule.plan(epoch).phase == "final":
            self.end_turns(self._turns, index)

    def metrics(self) -> dict[str, float]:
        """As every selector; and tau, actions, reward weights, PPO's diagnostics, kept/unkept.

        With trusted rows how well these are told from others, and "avoided_share": of all samples
        those that are taken less than half as often as a uniform draw would take them.
        """
        metrics = {**super().metrics(), **self.policy.metrics()}
        if isinstance(self._table, LikenessTable):
            metrics["avoided_share"] = self._table.avoided(self.schedule.num_kept)
        if self._running is not None:
            kept, unkept = self._kept_and_unkept()
            metrics["kept_mean_action"] = float(kept.mean())
            if len(unkept):
                metrics["unkept_mean_action"] = float(unkept.mean())
        return metrics

    def _trusted_in_words(self) -> list[str]:
        return []  # the description counts them

    def describe(self) -> str:
        """The policy, its reward and what it learned, and the rules on it."""
        words = self.policy.describe()
        if isinstance(self._table, LikenessTable) and self.policy.num_updates:
            share = self._table.avoided(self.schedule.num_kept)
            words = f"{words}, avoids {100 * share:.0f} % of all rows"
        return f"{words}; {self.rules_in_words()}"

    def expected_actions(self) -> Tensor:
        """float32 `[N]`: E[a_i] of each sample under the policy at its last visit.

        As of the running epoch's beginning, when the last epoch's feedback was merged.
        """
        return self._table.expected_actions()

    def suspects(self) -> Tensor:
        """As `RuledSelector.suspects`.

        Raises:
            InputError: there are no label rules, as always with trusted rows.
        """
        if self.trusted is None:
            return super().suspects()
        raise InputError(
            "with trusted rows there are no label rules, so no labels are remembered. Look at what "
            'each label\'s probability was: table()["margin"] is lowest where another class was '
            'much likelier, and table()["suggested_label"] names it. Or take '
            "make_selector('label-aware', ..., trusted=rows), whose suspects() names samples."
        )

    def sample_scores(self) -> Tensor:
        """As `expected_actions`."""
        return self.expected_actions()

    def settings(self) -> dict[str, Any]:
        """The configuration, signals by name."""
        return {**super().settings(), **self.policy.settings()}

    def method_state(self) -> dict[str, Any]:
        """Table, turns, learner, counters."""
        turns = None if self._turns is None else self._turns.state_dict()
        return {"table": self._table.state_dict(), "turns": turns, **self.policy.state_dict()}

    def load_method_state(self, state: dict[str, Any]) -> None:
        """Take over what `method_state` returned."""
        if self._turns is not None:
            self._turns.load_state_dict(state["turns"])
        self._table.load_state_dict(state["table"])
        self.policy.load_state_dict(state)

    def _make_table(self) -> SampleTable | LikenessTable:
        config, size = self.config, self.own.num_samples
        if isinstance(config, TrustedConfig):
            return LikenessTable(
                size, seed=self.seed, memory=config.memory, sharpness=config.sharpness
            )
        if config.ranking == "last-action":
            return ActionTable(size)
        return ParameterTable(size, seed=self.own.shard.seed(self.seed), drift=config.drift)

    def _kept_and_unkept(self) -> tuple[Tensor, Tensor]:
        assert self._running is not None
        actions = self._table.expected_actions()
        kept = torch.zeros(len(actions), dtype=torch.bool)
        kept[self.own.shard.places(self._running.selection.index)] = True
        return actions[kept], actions[~kept]
