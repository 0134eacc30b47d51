"""The learned part of every agent: what a batch is worth, how to act on it, when to learn."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from data_agent.agent.config import DataAgentConfig
from data_agent.agent.learner import Learner
from data_agent.agent.reward import adaptive_weights, utility
from data_agent.errors import InputError
from data_agent.runtime import distributed
from data_agent.selecting.feedback import Feedback


class Policy:
    """Acts on batches of feedback and learns from them every few steps.

    Args:
        config: the agent's settings.
        seed: of networks and draws.
        keep_ratio: the budget that tau keeps.

    Raises:
        InputError: `config` is no `DataAgentConfig`.
    """

    def __init__(self, config: DataAgentConfig, *, seed: int, keep_ratio: float) -> None:
        if not isinstance(config, DataAgentConfig):
            raise InputError(f"config is {type(config).__name__}; expected a DataAgentConfig(...).")
        self.config = config
        self.num_steps = 0
        self.num_updates = 0
        self.update_interval = 0
        self.learner: Learner | None = None
        self._seed = seed
        self._keep_ratio = keep_ratio
        self._reward_weights: Tensor | None = None

    def act(self, feedback: Feedback, uniform: Tensor) -> Tensor:
        """Act on a batch, and keep what came of it for the next update.

        Args:
            feedback: one row a sample, with features.
            uniform: bool `[B]` on the host, samples that were not chosen by the policy.

        Returns:
            `[3, B]`: alpha, beta and the sampled action.

        Raises:
            InputError: no features came, or a signal is not `[B]` in [0, 1]; nothing was learnt.
        """
        features = _features_of(feedback)
        signals = self._signals(feedback)
        weights = adaptive_weights(signals)
        learner = self._learner_for(features)
        state = learner.state_of(features)
        acted = learner.act(
            state,
            utility(signals, weights),
            step=self.num_steps,
            uniform=uniform.to(state.device, non_blocking=True),
            valid=feedback.valid,
        )
        self.learner = learner
        self._reward_weights = weights
        return acted

    def preview(self, feedback: Feedback) -> Tensor:
        """The actions `[B]` that `act` would take on this batch, changing no state."""
        features = _features_of(feedback)
        self._signals(feedback)  # what `act` would refuse is refused before anything is trained on
        return self._learner_for(features).preview(features, step=self.num_steps)

    def count_step(self, rows_a_step: int) -> bool:
        """Count a batch; whether an update is due, at the same step on every rank.

        Args:
            rows_a_step: rows of a batch on each rank; the first call decides.
        """
        if self.num_steps == 0:
            rows = rows_a_step * distributed.world_size()
            enough = math.ceil(self.config.rollout_rows / rows)
            self.update_interval = max(self.config.update_every, enough)
        self.num_steps += 1
        return self.num_steps % self.update_interval == 0

    def update(self, progress: float) -> None:
        """Learn from what was kept; a collective call on several ranks.

        Args:
            progress: share of training that is over, in [0, 1], for the learning rate.
        """
        self.learner = self._learner_of_all()
        if self.learner is None:  # no batch with features has come
            return
        self.learner.update(progress=min(1.0, progress))
        self.num_updates += 1

    def metrics(self) -> dict[str, float]:
        """tau, mean action, weights of the reward, and PPO's diagnostics."""
        metrics = {"policy_updates": float(self.num_updates)}
        for name in ("tau", "mean_action"):
            if (value := getattr(self.learner, name, None)) is not None:
                metrics[name] = value
        if self._reward_weights is not None:
            for signal, weight in zip(self.config.signals, self._reward_weights, strict=True):
                metrics[f"reward_weight/{_name_of(signal)}"] = float(weight)
        if self.learner is not None:
            metrics.update({k: float(v) for k, v in self.learner.diagnostics.items()})
        return metrics

    def describe(self) -> str:
        """What it is rewarded for and where it stands: "policy, rewarded by difficulty and ..."."""
        signals = [_name_of(signal) for signal in self.config.signals]
        line = f"policy, rewarded by {' and '.join(signals)}"
        if self.learner is not None and self.learner.mean_action is not None:
            line += f", mean action {self.learner.mean_action:.2f}"
        if self.learner is not None and self.learner.tau is not None:
            line += f", tau {self.learner.tau:.3f}"
        return line

    def settings(self) -> dict[str, Any]:
        """The configuration, signals by name."""
        plain = {f.name: getattr(self.config, f.name) for f in fields(self.config)}
        del plain["label_rules"]  # no part of the policy
        return {**plain, "signals": [_name_of(signal) for signal in self.config.signals]}

    def state_dict(self) -> dict[str, Any]:
        """Learner and counters; a collective call on several ranks."""
        learner = self._learner_of_all()
        return {
            "learner": None if learner is None else learner.state_dict(),
            "num_steps": self.num_steps,
            "num_updates": self.num_updates,
            "update_interval": self.update_interval,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.num_steps = int(state["num_steps"])
        self.num_updates = int(state["num_updates"])
        self.update_interval = int(state["update_interval"])
        self._reward_weights = None  # a reading of the last batch, no state
        if state["learner"] is None:
            self.learner = None
            return
        learner = self._make_learner(int(state["learner"]["width"]), torch.device("cpu"))
        learner.load_state_dict(state["learner"])
        self.learner = learner

    def _signals(self, feedback: Feedback) -> Tensor:
        """`[S, B]`, one row a signal, in the precision of the policy."""
        dtype = torch.float64 if self.config.dtype == "float64" else torch.float32
        rows = [signal(feedback).detach().to(dtype) for signal in self.config.signals]
        for signal, values in zip(self.config.signals, rows, strict=True):
            if values.shape != feedback.losses.shape:
                raise InputError(
                    f"signal {_name_of(signal)!r} returned shape {list(values.shape)}; expected "
                    f"[{len(feedback)}], one value a sample. Reduce what it computes to that, for "
                    "example by .mean(1)."
                )
            on_host = values.device.type == "cpu"  # elsewhere a look at the values would wait
            if on_host and not (values.min() >= 0 and values.max() <= 1):
                raise InputError(
                    f"signal {_name_of(signal)!r} returned values in [{values.min():.3g}, "
                    f"{values.max():.3g}]; expected [0, 1]. Scale it, for example by the batch's "
                    "range: (v - v.min()) / (v.max() - v.min()).clamp_min(1e-8)."
                )
        return torch.stack(rows)

    def _learner_for(self, features: Tensor) -> Learner:
        if self.learner is None:
            return self._make_learner(features.shape[1], features.device)
        self.learner.to(features.device)
        return self.learner

    def _learner_of_all(self) -> Learner | None:
        """This rank's learner; a new one where only other ranks have seen features so far."""
        width = 0 if self.learner is None else self.learner.width
        width = int(distributed.gather_rows(torch.tensor([width]))[0].max())
        if self.learner is None and width:
            return self._make_learner(width, torch.device("cpu"))
        return self.learner

    def _make_learner(self, width: int, device: torch.device) -> Learner:
        return Learner(
            self.config, width, seed=self._seed, keep_ratio=self._keep_ratio, device=device
        )


def _features_of(feedback: Feedback) -> Tensor:
    if feedback.features is None:
        raise InputError(
            "the policy sees features [B, D], and none came. Call agent.watch(head), the model's "
            "last layer, for learn() to read them from; or pass features=[B, D] to learn(), or to "
            "Feedback where you call observe()."
        )
    return feedback.features


def _name_of(signal: object) -> str:
    return getattr(signal, "__name__", type(signal).__name__)
