"""PPO on the rollout: what the policy says of features, and how it learns."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from data_agent.agent.adam import Adam
from data_agent.agent.config import DataAgentConfig
from data_agent.agent.moments import Moments, batch_moments, faded, merged, standardised
from data_agent.agent.networks import ActorCritic, concentration
from data_agent.agent.objective import (
    approximate_kl,
    batch_gae,
    beta_entropy,
    beta_log_prob,
    clip_fraction,
    explained_variance,
    log_both,
    normalised,
    one_step_advantage,
    ppo_gradient,
)
from data_agent.agent.reward import centred_reward, multiplier_step, paper_reward
from data_agent.agent.rollout import Rollout, RolloutRows
from data_agent.errors import InputError
from data_agent.runtime import distributed
from data_agent.runtime.random import Purpose, generator, projection
from data_agent.runtime.state import require_tensor

STATE_CLIP = 5.0  # standardised features beyond five deviations tell no more
ACTION_MARGIN = 1e-6  # keeps log a and log(1 - a) finite
MOMENTS_WINDOW = 10_000  # rows; features drift while the model trains


class _Lesson(NamedTuple):
    """What the last update learned from, kept for diagnostics."""

    state: Tensor
    action: Tensor
    log_prob: Tensor
    utility: Tensor
    value: Tensor
    target: Tensor


class Learner:
    """The policy, its critic, and what they learn from.

    Args:
        config: the agent's settings.
        width: D, width of the features.
        seed: of networks, projection and draws.
        keep_ratio: the budget that tau keeps.
        device: where the model runs; the policy runs there too.
    """

    def __init__(
        self,
        config: DataAgentConfig,
        width: int,
        *,
        seed: int,
        keep_ratio: float,
        device: torch.device,
    ) -> None:
        self.width = width
        self.device = device
        self.tau: float | None = None
        self.mean_action: float | None = None
        self._config = config
        self._seed = seed
        self._keep_ratio = keep_ratio
        self._dtype = torch.float64 if config.dtype == "float64" else torch.float32
        where: dict[str, Any] = {"dtype": self._dtype, "device": device}
        state_width = min(width, config.max_features)
        self._projection = self._make_projection(width, state_width)
        self._moments = Moments(state_width, window=MOMENTS_WINDOW, **where)
        self._reward_moments = torch.zeros(3, 1, **where)
        self._uniform_actions = torch.zeros(1, **where)  # their sum
        self._num_uniform = 0
        self.networks = ActorCritic(state_width, config.hidden, seed=seed, **where)
        num_weights = len(self.networks.weights)
        self._adam = Adam(num_weights, weight_decay=config.weight_decay, **where)
        self._rollout = Rollout(config.rollout_rows, state_width, **where)
        self._last_lesson: _Lesson | None = None
        self._diagnostics: dict[str, float] = {}  # of an update before a restore

    def reduced(self, features: Tensor) -> Tensor:
        """Features `[B, width]` as the policy keeps them; wide ones by a fixed random projection.

        Raises:
            InputError: features of another width than before.
        """
        if features.shape[1] != self.width:
            raise InputError(
                f"features came {features.shape[1]} wide; so far they were {self.width} wide. The "
                "policy is built for one width: watch the same layer throughout the run."
            )
        return features if self._projection is None else features.to(self._dtype) @ self._projection

    def concentration(self, features: Tensor) -> Tensor:
        """(alpha, beta) `[B, 2]` of the policy for reduced features `[B, D]`."""
        return self.networks.concentration(self._state_of(features))

    def act(self, features: Tensor, utility: Tensor, labels: Tensor, uniform: Tensor) -> Tensor:
        """Let the policy act on rows, and keep what its next update may learn from.

        Args:
            features: `[M, D]`, reduced.
            utility: `[M]` in [0, 1].
            labels: int64 `[M, 2]` on the host, each row's key and step, see `Rollout.add`.
            uniform: bool `[M]` on the host, rows that stand for the whole dataset: no choice
                brought them.

        Returns:
            (alpha, beta), `[M, 2]`.
        """
        self._moments.add(features)
        self._rollout.add(labels, features, utility)
        parameters = self.concentration(features)
        if (num_uniform := int(uniform.sum())) > 0:
            counts = uniform.to(features.device, self._dtype, non_blocking=True)
            self._uniform_actions += expected_action(parameters) @ counts
            self._num_uniform += num_uniform
        return parameters

    def draw(self, parameters: Tensor, purpose: Purpose, *position: int) -> Tensor:
        """Actions `[M]` from Beta(alpha, beta), a function of seed and position."""
        draws = generator(self._seed, purpose, *position, device=parameters.device)
        gamma = torch._standard_gamma(parameters, generator=draws)
        return expected_action(gamma).clamp_(ACTION_MARGIN, 1 - ACTION_MARGIN)

    def update(self, number: int, *, progress: float) -> None:
        """One policy update from the rollout; a collective call on several ranks.

        The actions that it learns from are drawn here, from the policy as it stands.

        Args:
            number: of the update, for the draws.
            progress: share of training that is over, in [0, 1], for the learning rate.
        """
        self._moments.settle()
        is_new = self._estimate_mean_action()
        rows = self._rollout.take()
        if rows is None:
            return
        state, config = self._state_of(rows.features), self._config
        of_actor, of_critic = self.networks.forward(state)[-1]
        parameters, value = concentration(of_actor), of_critic[:, 0]
        action = self.draw(parameters, Purpose.UPDATE, number)
        logs = log_both(action)
        log_prob = beta_log_prob(logs, parameters)
        reward = self._normalised_reward(action, rows.utility, follow_budget=is_new)
        advantage = self._advantage(reward, value, rows)
        target = advantage + value
        self._last_lesson = _Lesson(state, action, log_prob, rows.utility, value, target)
        advantage, of_zero = normalised(advantage), torch.zeros_like(target)
        target = torch.stack([target, of_zero], 1)
        learning_rate = config.learning_rate * max(0.0, 1 - progress)
        for _ in range(config.ppo_epochs):
            values = self.networks.forward(state)
            upward = ppo_gradient(
                *(values[-1], logs, log_prob, advantage, target),
                clip=config.clip,
                entropy_bonus=config.entropy_bonus,
            )
            gradient = self.networks.gradient(values, upward)
            self._adam.step(self.networks.weights, gradient, learning_rate)

    @torch.no_grad()
    def diagnostics(self) -> dict[str, float]:
        """Of the last update: what PPO's authors look at; waits for the device."""
        if (lesson := self._last_lesson) is None:
            return dict(self._diagnostics)
        parameters = self.networks.concentration(lesson.state)
        log_ratio = beta_log_prob(log_both(lesson.action), parameters) - lesson.log_prob
        values = {
            "approximate_kl": approximate_kl(log_ratio),
            "clip_fraction": clip_fraction(log_ratio, self._config.clip),
            "entropy": beta_entropy(parameters).mean(),
            "concentration": parameters.sum(1).mean(),
            "explained_variance": explained_variance(lesson.value, lesson.target),
            "rollout_mean_action": lesson.action.mean(),
            "rollout_mean_utility": lesson.utility.mean(),
        }
        return {name: float(value) for name, value in values.items()}

    def to(self, device: torch.device) -> None:
        """Move everything to `device`."""
        if device == self.device:
            return
        self._diagnostics, self._last_lesson = self.diagnostics(), None
        self.device = device
        for part in (self.networks, self._adam, self._moments, self._rollout):
            part.to(device)
        if self._projection is not None:
            self._projection = self._projection.to(device)
        self._reward_moments = self._reward_moments.to(device)
        self._uniform_actions = self._uniform_actions.to(device)

    def state_dict(self) -> dict[str, Any]:
        """Everything that learns, of all ranks, on the host. A collective call."""
        num_uniform = torch.tensor([self._num_uniform])
        actions, counts = distributed.gather_rows(self._uniform_actions, num_uniform)
        return {
            "width": self.width,
            "tau": self.tau,
            "mean_action": self.mean_action,
            "uniform_actions": actions.cpu().clone(),
            "num_uniform": counts.tolist(),
            "weights": self.networks.weights.cpu().clone(),
            "adam": self._adam.state_dict(),
            "moments": self._moments.state_dict(),
            "reward_moments": self._reward_moments.cpu().clone(),
            "rollout": self._rollout.state_dict(),
            "diagnostics": self.diagnostics(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned.

        Raises:
            CheckpointError: a tensor of another shape or dtype.
        """
        found = {str(name): float(value) for name, value in state["diagnostics"].items()}
        self._diagnostics, self._last_lesson = found, None
        tau, mean_action = state["tau"], state["mean_action"]
        self.tau = None if tau is None else float(tau)
        self.mean_action = None if mean_action is None else float(mean_action)
        counts = [int(count) for count in state["num_uniform"]]
        own = list(distributed.parts_to_resume(len(counts)))
        actions = self._loaded(state, "uniform_actions", len(counts))
        self._uniform_actions = actions[own].sum(0, keepdim=True)
        self._num_uniform = sum(counts[part] for part in own)
        self.networks.load(self._loaded(state, "weights", len(self.networks.weights)))
        self._adam.load_state_dict(state["adam"])
        self._moments.load_state_dict(state["moments"])
        self._reward_moments = self._loaded(state, "reward_moments", 3, 1)
        self._rollout.load_state_dict(state["rollout"])

    def _loaded(self, state: dict[str, Any], name: str, *shape: int) -> Tensor:
        return require_tensor(state, name, shape=shape, dtype=self._dtype).to(self.device)

    def _state_of(self, features: Tensor) -> Tensor:
        """What the networks see of reduced features: standardised, clipped at +-5."""
        rows = self._moments.standardised(features.to(self._dtype))
        return rows.clamp_(-STATE_CLIP, STATE_CLIP)

    def _estimate_mean_action(self) -> bool:
        """What the policy would do with all samples, from those that no choice brought, if any."""
        num_uniform = torch.tensor([self._num_uniform])
        actions, counts = distributed.gather_rows(self._uniform_actions, num_uniform)
        count = int(counts.sum())
        if count:
            self.mean_action = float(actions.sum()) / count
        self._uniform_actions = torch.zeros_like(self._uniform_actions)
        self._num_uniform = 0
        return count > 0

    def _advantage(self, reward: Tensor, value: Tensor, rows: RolloutRows) -> Tensor:
        gamma, gae_lambda = self._config.gamma, self._config.gae_lambda
        if gamma == 0:
            return one_step_advantage(reward, value)
        return batch_gae(reward, value, rows.step, gamma=gamma, gae_lambda=gae_lambda)

    def _normalised_reward(self, action: Tensor, utility: Tensor, *, follow_budget: bool) -> Tensor:
        """The rewards `[R]` at today's tau, standardised by running statistics."""
        if self._config.reward == "paper":
            reward = paper_reward(action, utility)
        else:
            if self.tau is None:  # the first price: what an average sample is worth
                self.tau = float(utility.mean())
            if follow_budget and self.mean_action is not None:
                self.tau = multiplier_step(
                    self.tau, self.mean_action, self._keep_ratio, self._config.tau_rate
                )
            reward = centred_reward(action, utility, self.tau)
        column = reward.unsqueeze(1)
        together = merged(self._reward_moments, batch_moments(column))
        self._reward_moments = faded(together, MOMENTS_WINDOW)
        return standardised(column, self._reward_moments).squeeze(1)

    def _make_projection(self, width: int, state_width: int) -> Tensor | None:
        if width == state_width:
            return None
        matrix = projection(width, state_width, self._seed)
        return matrix.to(self.device, self._dtype)


def expected_action(parameters: Tensor) -> Tensor:
    """E[a] = alpha / (alpha + beta), `[M]` of `[M, 2]`."""
    return parameters[:, 0] / parameters.sum(1)
