"""The agent: ties signals, learner and table together; owns no formula."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any, ClassVar

import torch
from torch import Tensor

from data_agent import _distributed
from data_agent._errors import InputError
from data_agent._messages import Feedback
from data_agent._nonfinite import OnNonfinite
from data_agent._random import Purpose, derived_seed
from data_agent._selector import Selector
from data_agent._topk import top_k_mask
from data_agent.agent.config import DataAgentConfig
from data_agent.agent.learner import Learner
from data_agent.agent.reward import adaptive_weights, utility
from data_agent.agent.table import ActionTable, ParameterTable, SampleTable


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
        if not isinstance(self.config, DataAgentConfig):
            raise InputError(f"config is {type(config).__name__}; expected a DataAgentConfig(...).")
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
        self._learner: Learner | None = None
        self._num_steps = 0
        self._num_updates = 0
        self._update_interval = 0
        self._reward_weights: Tensor | None = None

    def choose(self, epoch: int, count: int, excluded: Tensor) -> Tensor:
        """The samples of highest action; equal actions are drawn at random."""
        tie_seed = derived_seed(self.seed, Purpose.TIE, epoch)
        scores = self._table.scores(epoch)
        return top_k_mask(scores, count, tie_seed=tie_seed, excluded=excluded).nonzero().squeeze(1)

    def record(self, feedback: Feedback) -> Tensor:
        """Let the policy act on the batch; its action or its parameters go to the table."""
        if feedback.features is None:
            raise InputError(
                "the policy sees features [B, D], and none came. learn() reads them from the layer "
                "given to agent.watch(head); observe() takes them as Feedback(..., features=...)."
            )
        signals = self._signals(feedback)
        weights = adaptive_weights(signals)
        learner = self._learner_for(feedback.features)
        state = learner.state_of(feedback.features)
        worth = utility(signals, weights)
        alpha, beta, action = learner.act(
            state,
            worth,
            step=self._num_steps,
            uniform=self.uniform_rows(feedback.index).to(state.device, non_blocking=True),
            valid=feedback.valid,
        )
        self._learner = learner
        self._reward_weights = weights
        return self._table.rows(alpha, beta, action)

    def after_observe(self, num_rows: int) -> None:
        """Update the policy where it is due."""
        if self._num_steps == 0:
            self._update_interval = self._steps_between_updates(num_rows)
        self._num_steps += 1
        if self._num_steps % self._update_interval == 0:
            self._update()

    def merge(self, index: Tensor, values: Tensor) -> None:
        """Take the last epoch's rows into the table."""
        self._table.merge(index, values)

    def metrics(self) -> dict[str, float]:
        """As every selector; and tau, actions, reward weights, PPO diagnostics, kept/unkept."""
        metrics = super().metrics()
        metrics["policy_updates"] = float(self._num_updates)
        for name in ("tau", "mean_action"):
            if (value := getattr(self._learner, name, None)) is not None:
                metrics[name] = value
        if self._reward_weights is not None:
            for signal, weight in zip(self.config.signals, self._reward_weights, strict=True):
                metrics[f"reward_weight/{_name_of(signal)}"] = float(weight)
        if self._learner is not None:
            metrics.update({k: float(v) for k, v in self._learner.diagnostics.items()})
        if self._running is not None:
            kept, unkept = self._kept_and_unkept()
            metrics["kept_mean_action"] = float(kept.mean())
            metrics["unkept_mean_action"] = float(unkept.mean()) if len(unkept) else math.nan
        return metrics

    def summary(self) -> str:
        """One line for a person."""
        line = super().summary()
        if self._learner is not None and self._learner.mean_action is not None:
            line += f", mean action {self._learner.mean_action:.2f}"
        if self._learner is not None and self._learner.tau is not None:
            line += f", tau {self._learner.tau:.3f}"
        return line

    def expected_actions(self) -> Tensor:
        """float32 `[N]`: E[a_i] of each sample under the policy at its last visit.

        As of the running epoch's beginning, when the last epoch's feedback was merged.
        """
        return self._table.expected_actions()

    def action_histogram(self, bins: int = 20) -> Tensor:
        """int64 `[bins]`: how many samples have an expected action in each part of [0, 1]."""
        actions = self._table.expected_actions()
        return torch.histc(actions, bins=bins, min=0, max=1).to(torch.int64)

    def settings(self) -> dict[str, Any]:
        """The configuration, signals by name."""
        plain = {f.name: getattr(self.config, f.name) for f in fields(self.config)}
        return {**plain, "signals": [_name_of(signal) for signal in self.config.signals]}

    def method_state(self) -> dict[str, Any]:
        """Table, learner, counters."""
        return {
            "table": self._table.state_dict(),
            "learner": None if self._learner is None else self._learner.state_dict(),
            "num_steps": self._num_steps,
            "num_updates": self._num_updates,
            "update_interval": self._update_interval,
        }

    def load_method_state(self, state: dict[str, Any]) -> None:
        """Take over what `method_state` returned."""
        self._table.load_state_dict(state["table"])
        self._num_steps = int(state["num_steps"])
        self._num_updates = int(state["num_updates"])
        self._update_interval = int(state["update_interval"])
        self._reward_weights = None  # a reading of the last batch, no state
        if state["learner"] is None:
            self._learner = None
            return
        learner = self._make_learner(int(state["learner"]["width"]), torch.device("cpu"))
        learner.load_state_dict(state["learner"])
        self._learner = learner

    def _signals(self, feedback: Feedback) -> Tensor:
        """`[S, B]`, one row a signal, in the precision of the policy."""
        dtype = torch.float64 if self.config.dtype == "float64" else torch.float32
        rows = [signal(feedback).detach().to(dtype) for signal in self.config.signals]
        for signal, values in zip(self.config.signals, rows, strict=True):
            if values.shape != feedback.losses.shape:
                raise InputError(
                    f"signal {_name_of(signal)!r} returned shape {list(values.shape)}; expected "
                    f"[{len(feedback)}], one value a sample."
                )
            on_host = values.device.type == "cpu"  # elsewhere a look at the values would wait
            if on_host and not (values.min() >= 0 and values.max() <= 1):
                raise InputError(
                    f"signal {_name_of(signal)!r} returned values in [{values.min():.3g}, "
                    f"{values.max():.3g}]; expected [0, 1]. Scale it, for example by the batch's "
                    "range."
                )
        return torch.stack(rows)

    def _learner_for(self, features: Tensor) -> Learner:
        if self._learner is None:
            return self._make_learner(features.shape[1], features.device)
        self._learner.to(features.device)
        return self._learner

    def _make_learner(self, width: int, device: torch.device) -> Learner:
        return Learner(
            self.config,
            width,
            seed=self.seed,
            keep_ratio=self.schedule.keep_ratio,
            device=device,
        )

    def _make_table(self) -> SampleTable:
        if self.config.ranking == "last-action":
            return ActionTable(self.schedule.num_samples)
        return ParameterTable(self.schedule.num_samples, seed=self.seed, drift=self.config.drift)

    def _steps_between_updates(self, num_rows: int) -> int:
        """Steps between updates: enough to fill a rollout. The same number on every rank."""
        rows_a_step = self.schedule.batch_size or num_rows
        rows_a_step *= _distributed.world_size()
        return max(self.config.update_every, math.ceil(self.config.rollout_rows / rows_a_step))

    def _update(self) -> None:
        assert self._learner is not None
        self._staging.check()
        done = self._total_visits() / self.schedule.total_visits
        self._learner.update(progress=min(1.0, done))
        self._num_updates += 1

    def _kept_and_unkept(self) -> tuple[Tensor, Tensor]:
        assert self._running is not None
        actions = self._table.expected_actions()
        kept = torch.zeros(len(actions), dtype=torch.bool)
        kept[self._running.selection.index] = True
        return actions[kept], actions[~kept]


def _name_of(signal: object) -> str:
    return getattr(signal, "__name__", type(signal).__name__)
