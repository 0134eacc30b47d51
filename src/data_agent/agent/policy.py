"""The learned part of every agent: what samples are worth, how to act on them, when to learn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from data_agent.agent.config import DataAgentConfig, Signal
from data_agent.agent.learner import Learner, expected_action
from data_agent.agent.reward import (
    adaptive_weights,
    difficulty,
    relative_losses,
    require_logits,
    uncertainty,
    utility,
)
from data_agent.errors import InputError
from data_agent.runtime import distributed
from data_agent.runtime.random import Purpose, derived_seed, position_hash
from data_agent.runtime.state import require_tensor
from data_agent.selecting.cadence import Cadence
from data_agent.selecting.feedback import Feedback


class Policy:
    """Acts on the rows of several batches at once, and learns from them every few steps.

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
        self.cadence = Cadence(
            config.update_every,
            fewest_rows=config.rollout_rows,
            most_updates=config.max_updates,
        )
        self.num_updates = 0
        self.learner: Learner | None = None
        self.precision = torch.float64 if config.dtype == "float64" else torch.float32
        own = [signal for signal in config.signals if signal not in (difficulty, uncertainty)]
        self.has_own_signals = bool(own)
        self._seed = seed
        self._keep_ratio = keep_ratio
        self._coming: Learner | None = None  # made for a batch that may still be refused
        self._reward_weights: Tensor | None = None

    @property
    def reads(self) -> tuple[str, ...]:
        """What of a batch it acts on, besides the losses."""
        told = ("logits", "uncertainty") if uncertainty in self.config.signals else ()
        return ("features", *told, *(("signals",) if self.has_own_signals else ()))

    def examine(self, feedback: Feedback) -> Feedback:
        """A batch as `act` shall see it: features reduced, signals of the user's computed.

        Changes nothing that is learned or saved.

        Raises:
            InputError: no features came, or of another width, or a signal is not `[B]` in [0, 1].
        """
        features = _features_of(feedback)
        reduced = self._learner_for(features).reduced(features)
        own: dict[str, Tensor] = {}
        for number, signal in enumerate(self.config.signals):
            if signal is uncertainty and feedback.uncertainty is None:
                require_logits(feedback)
            elif signal is not difficulty:
                own[str(number)] = _checked(signal, feedback)
        if reduced is features and not self.has_own_signals:
            return feedback
        return feedback.having(features=reduced, signals=own)

    def act(self, feedback: Feedback, uniform: Tensor, *, epoch: int) -> Tensor:
        """Act on rows, and keep what the next update may learn from.

        Args:
            feedback: the rows of one or several batches, as `examine` returned them.
            uniform: bool `[M]` on the host, samples that were not chosen by the policy.
            epoch: in which they came; seeds what the update learns from.

        Returns:
            `[3, M]`: alpha, beta, and the action: sampled where that is the ranking, else its
            mean.
        """
        features = _features_of(feedback)
        self.learner = learner = self._learner_of(features)
        key = position_hash(feedback.index, derived_seed(self._seed, Purpose.ROLLOUT, epoch))
        labels = torch.stack([key, self.cadence.steps_of(feedback.sizes)], 1)
        parameters = learner.act(features, self._utility(feedback), labels, uniform)
        action = expected_action(parameters)
        if self.config.ranking == "last-action":
            action = self._draw(learner, parameters)
        return torch.stack([*parameters.unbind(1), action])

    def preview(self, feedback: Feedback) -> Tensor:
        """Actions `[B]` for a batch that `examine` returned, changing no state."""
        features = _features_of(feedback)
        learner = self._learner_of(features)
        return self._draw(learner, learner.concentration(features))

    def count_step(self, rows_a_step: int, total_rows: int) -> bool:
        """Count a batch; whether an update is due, at the same step on every rank.

        Args:
            rows_a_step: rows of a batch on each rank; the first call decides.
            total_rows: of the whole run, over all ranks.
        """
        self.learner = self.learner or self._coming
        return self.cadence.count(rows_a_step, total_rows)

    def update(self, progress: float) -> None:
        """Learn from what was kept; a collective call on several ranks.

        Args:
            progress: share of training that is over, in [0, 1], for the learning rate.
        """
        self.learner = self._learner_of_all()
        if self.learner is None:  # no batch with features has come
            return
        self.learner.update(self.num_updates, progress=min(1.0, progress))
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
        return metrics if self.learner is None else {**metrics, **self.learner.diagnostics()}

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
        weights = torch.zeros(len(self.config.signals), dtype=self.precision)
        if self._reward_weights is not None:
            weights = self._reward_weights.cpu()
        return {
            "learner": None if learner is None else learner.state_dict(),
            "reward_weights": distributed.from_first(weights).clone(),
            "num_updates": self.num_updates,
            **self.cadence.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.cadence.load_state_dict(state)
        self.num_updates = int(state["num_updates"])
        shape = (len(self.config.signals),)
        weights = require_tensor(state, "reward_weights", shape=shape, dtype=self.precision)
        self._reward_weights = weights if weights.any() else None  # a reading of the last block
        self.learner = self._coming = None
        if state["learner"] is not None:
            learner = self._make_learner(int(state["learner"]["width"]), torch.device("cpu"))
            learner.load_state_dict(state["learner"])
            self.learner = learner

    def _utility(self, feedback: Feedback) -> Tensor:
        """u_i of all rows, `[M]`: quantiles, ranges and variances are those of each batch."""
        utilities: list[Tensor] = []
        known = {
            number: uncertainty(feedback)
            if signal is uncertainty
            else feedback.signals[str(number)]
            for number, signal in enumerate(self.config.signals)
            if signal is not difficulty
        }
        start = 0
        for size, batches in groupby(feedback.sizes):  # batches of one size are computed together
            shape = (len(list(batches)), size)
            rows = slice(start, start + shape[0] * size)
            start = rows.stop
            signals = torch.stack(
                [
                    known[number][rows].view(shape)
                    if number in known
                    else relative_losses(feedback.losses[rows].view(shape))
                    for number in range(len(self.config.signals))
                ]
            )
            weights = adaptive_weights(signals)
            utilities.append(utility(signals, weights).flatten())
            self._reward_weights = weights[:, -1]
        return torch.cat(utilities)

    def _draw(self, learner: Learner, parameters: Tensor) -> Tensor:
        return learner.draw(parameters, Purpose.ACTION, distributed.rank(), self.cadence.num_steps)

    def _learner_for(self, features: Tensor) -> Learner:
        """The learner, where the features are; before the first batch one that may yet come."""
        learner = self.learner or self._coming
        if learner is None or (self.learner is None and learner.width != features.shape[1]):
            learner = self._coming = self._make_learner(features.shape[1], features.device)
        learner.to(features.device)
        return learner

    def _learner_of(self, reduced: Tensor) -> Learner:
        """The learner by which features were reduced, where they are."""
        learner = self.learner or self._coming or self._learner_for(reduced)
        learner.to(reduced.device)
        return learner

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


def _checked(signal: Signal, feedback: Feedback) -> Tensor:
    """A signal's values `[B]`; their range is checked on the host, elsewhere a look would wait.

    Raises:
        InputError: another shape, or values outside of [0, 1].
    """
    values = signal(feedback).detach()
    if values.shape != feedback.losses.shape:
        raise InputError(
            f"signal {_name_of(signal)!r} returned shape {list(values.shape)}; expected "
            f"[{len(feedback)}], one value a sample. Reduce what it computes to that, for example "
            "by .mean(1)."
        )
    if values.device.type == "cpu" and not (values.min() >= 0 and values.max() <= 1):
        raise InputError(
            f"signal {_name_of(signal)!r} returned values in [{values.min():.3g}, "
            f"{values.max():.3g}]; expected [0, 1]. Scale it, for example by the batch's range: "
            "(v - v.min()) / (v.max() - v.min()).clamp_min(1e-8)."
        )
    return values


def _name_of(signal: object) -> str:
    return getattr(signal, "__name__", type(signal).__name__)
