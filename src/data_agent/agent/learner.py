"""PPO on the rollout: state, policy, value, and one update."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from data_agent.agent.config import DataAgentConfig
from data_agent.agent.moments import Moments, batch_moments, faded, merged, standardised
from data_agent.agent.networks import Actor, Critic
from data_agent.agent.objective import (
    approximate_kl,
    batch_gae,
    beta_entropy,
    beta_log_prob,
    clip_fraction,
    clipped_surrogate,
    explained_variance,
    normalised,
    one_step_advantage,
)
from data_agent.agent.reward import centred_reward, multiplier_step, paper_reward
from data_agent.agent.rollout import Rollout, RolloutRows
from data_agent.errors import CheckpointError, InputError
from data_agent.runtime import distributed
from data_agent.runtime.random import Purpose, generator
from data_agent.runtime.state import require_tensor

STATE_CLIP = 5.0  # standardised features beyond five deviations tell no more
ACTION_MARGIN = 1e-6  # keeps log a and log(1 - a) finite
MOMENTS_WINDOW = 10_000  # rows; features drift while the model trains


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
        self.tau: float | None = None
        self.mean_action: float | None = None
        self.diagnostics: dict[str, Tensor] = {}
        self._config = config
        self._seed = seed
        self._keep_ratio = keep_ratio
        self._device = device
        self._dtype = torch.float64 if config.dtype == "float64" else torch.float32
        state_width = min(width, config.max_features)
        self._projection = self._make_projection(width, state_width)
        self._moments = Moments(
            state_width, window=MOMENTS_WINDOW, device=device, dtype=self._dtype
        )
        self._reward_moments = torch.zeros(3, 1, dtype=self._dtype, device=device)
        self._uniform_actions = torch.zeros(2, dtype=self._dtype, device=device)
        self.actor = Actor(state_width, config.hidden, seed=seed, dtype=self._dtype).to(device)
        self.critic = Critic(state_width, config.hidden, seed=seed, dtype=self._dtype).to(device)
        self._optimizers = [self._adam(self.actor), self._adam(self.critic)]
        self.rollout = Rollout(config.rollout_rows, state_width, dtype=self._dtype, device=device)

    def state_of(self, features: Tensor) -> Tensor:
        """What the policy sees of float `[B, width]`: reduced, standardised, clipped at +-5.

        Takes the features into the running statistics.

        Raises:
            InputError: features of another width than before.
        """
        rows = self._reduced(features)
        self._moments.add(rows)
        return self._moments.standardised(rows).clamp(-STATE_CLIP, STATE_CLIP)

    def preview(self, features: Tensor, *, step: int) -> Tensor:
        """The actions `[B]` for float `[B, width]` in batch `step`, changing no state."""
        rows = self._moments.standardised(self._reduced(features)).clamp(-STATE_CLIP, STATE_CLIP)
        alpha, beta = self.actor(rows)
        return self._draw(alpha, beta, step)

    def act(
        self,
        state: Tensor,
        utility: Tensor,
        *,
        step: int,
        uniform: Tensor,
        valid: Tensor | None = None,
    ) -> Tensor:
        """Let the policy act on a batch and keep the rows for its next update.

        Args:
            state: `[B, D]`, from `state_of`.
            utility: `[B]` in [0, 1].
            step: number of the batch, for the draws.
            uniform: bool `[B]`, rows that stand for the whole dataset: no choice brought them.
            valid: bool `[B]`, rows that count, or None for all.

        Returns:
            `[3, B]`: alpha, beta and the sampled action.
        """
        alpha, beta = self.actor(state)
        action = self._draw(alpha, beta, step)
        key_draws = generator(self._seed, Purpose.ROLLOUT, distributed.rank(), step)
        key = torch.rand(len(state), generator=key_draws, dtype=torch.float32)
        key = key.to(state.device, non_blocking=True)
        if valid is not None:
            key = torch.where(valid, key, torch.inf)
            uniform = uniform & valid
        expected = alpha / (alpha + beta)
        seen = torch.stack([(expected * uniform).sum(), uniform.sum().to(self._dtype)])
        self._uniform_actions = self._uniform_actions + seen
        steps = torch.full((len(state),), step, dtype=torch.int64, device=state.device)
        log_prob = beta_log_prob(action, alpha, beta)
        self.rollout.add(RolloutRows(key, steps, state, action, log_prob, utility.to(self._dtype)))
        return torch.stack([alpha, beta, action])

    def update(self, *, progress: float) -> None:
        """One policy update from the rollout; a collective call on several ranks.

        Args:
            progress: share of training that is over, in [0, 1], for the learning rate.
        """
        self._moments.settle()
        is_new = self._estimate_mean_action()
        rows = self.rollout.take()
        if rows is None:
            return
        reward = self._normalised_reward(rows, follow_budget=is_new)
        with torch.no_grad():
            value = self.critic(rows.state)
        advantage = self._advantage(reward, value, rows.step)
        learning_rate = self._config.learning_rate * max(0.0, 1 - progress)
        for optimizer in self._optimizers:
            optimizer.param_groups[0]["lr"] = learning_rate
        with torch.enable_grad():
            for _ in range(self._config.ppo_epochs):
                self._gradient_step(rows, normalised(advantage), advantage + value)
        self._diagnose(rows, value, advantage + value)

    def to(self, device: torch.device) -> None:
        """Move everything to `device`."""
        if device == self._device:
            return
        self._device = device
        self.actor.to(device)
        self.critic.to(device)
        for optimizer in self._optimizers:
            for slots in optimizer.state.values():
                slots.update({k: v.to(device) for k, v in slots.items() if k != "step"})
        if self._projection is not None:
            self._projection = self._projection.to(device)
        self._moments.to(device)
        self._reward_moments = self._reward_moments.to(device)
        self._uniform_actions = self._uniform_actions.to(device)
        self.rollout.to(device)

    def state_dict(self) -> dict[str, Any]:
        """Everything that learns, of all ranks, on the host. A collective call."""
        (uniform,) = distributed.gather_rows(self._uniform_actions.unsqueeze(0))
        return {
            "width": self.width,
            "tau": self.tau,
            "mean_action": self.mean_action,
            "uniform_actions": uniform.cpu().clone(),
            "actor": _on_host(self.actor.state_dict()),
            "critic": _on_host(self.critic.state_dict()),
            "actor_adam": _adam_state(self._optimizers[0]),
            "critic_adam": _adam_state(self._optimizers[1]),
            "moments": self._moments.state_dict(),
            "reward_moments": self._reward_moments.cpu().clone(),
            "rollout": self.rollout.state_dict(),
            "diagnostics": _on_host(self.diagnostics),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned.

        Raises:
            CheckpointError: a tensor of another shape or dtype.
        """
        tau, mean_action = state["tau"], state["mean_action"]
        self.tau = None if tau is None else float(tau)
        self.mean_action = None if mean_action is None else float(mean_action)
        num_parts = len(state["uniform_actions"])
        uniform = require_tensor(state, "uniform_actions", shape=(num_parts, 2), dtype=self._dtype)
        own = list(distributed.parts_to_resume(num_parts))
        self._uniform_actions = uniform[own].sum(0).to(self._device)
        self.actor.load_state_dict(state["actor"])
        self.critic.load_state_dict(state["critic"])
        _load_adam(self._optimizers[0], state["actor_adam"])
        _load_adam(self._optimizers[1], state["critic_adam"])
        self._moments.load_state_dict(state["moments"])
        reward_moments = require_tensor(state, "reward_moments", shape=(3, 1), dtype=self._dtype)
        self._reward_moments = reward_moments.to(self._device)
        self.rollout.load_state_dict(state["rollout"])
        self.diagnostics = dict(state["diagnostics"])

    def _reduced(self, features: Tensor) -> Tensor:
        if features.shape[1] != self.width:
            raise InputError(
                f"features came {features.shape[1]} wide; so far they were {self.width} wide. The "
                "policy is built for one width: watch the same layer throughout the run."
            )
        rows = features.to(self._dtype)
        return rows if self._projection is None else rows @ self._projection

    def _draw(self, alpha: Tensor, beta: Tensor, step: int) -> Tensor:
        """Actions from Beta(alpha, beta), a function of seed, rank and step."""
        draws = generator(self._seed, Purpose.ACTION, distributed.rank(), step, device=alpha.device)
        first = torch._standard_gamma(alpha, generator=draws)
        second = torch._standard_gamma(beta, generator=draws)
        return (first / (first + second)).clamp(ACTION_MARGIN, 1 - ACTION_MARGIN)

    def _estimate_mean_action(self) -> bool:
        """What the policy would do with all samples, from those that no choice brought, if any."""
        (seen,) = distributed.gather_rows(self._uniform_actions.unsqueeze(0))
        total, count = seen.sum(0).tolist()
        self._uniform_actions = torch.zeros_like(self._uniform_actions)
        if count:
            self.mean_action = total / count
        return count > 0

    def _advantage(self, reward: Tensor, value: Tensor, step: Tensor) -> Tensor:
        if self._config.gamma == 0:
            return one_step_advantage(reward, value)
        gamma, gae_lambda = self._config.gamma, self._config.gae_lambda
        return batch_gae(reward, value, step, gamma=gamma, gae_lambda=gae_lambda)

    def _normalised_reward(self, rows: RolloutRows, *, follow_budget: bool) -> Tensor:
        """The rows' rewards at today's tau, standardised by running statistics."""
        if self._config.reward == "paper":
            reward = paper_reward(rows.action, rows.utility)
        else:
            if self.tau is None:  # the first price: what an average sample is worth
                self.tau = float(rows.utility.mean())
            if follow_budget and self.mean_action is not None:
                self.tau = multiplier_step(
                    self.tau, self.mean_action, self._keep_ratio, self._config.tau_rate
                )
            reward = centred_reward(rows.action, rows.utility, self.tau)
        column = reward.unsqueeze(1)
        together = merged(self._reward_moments, batch_moments(column))
        self._reward_moments = faded(together, MOMENTS_WINDOW)
        return standardised(column, self._reward_moments).squeeze(1)

    def _gradient_step(self, rows: RolloutRows, advantage: Tensor, target: Tensor) -> None:
        alpha, beta = self.actor(rows.state)
        log_ratio = beta_log_prob(rows.action, alpha, beta) - rows.log_prob
        surrogate = clipped_surrogate(log_ratio, advantage, self._config.clip)
        policy_loss = -surrogate - self._config.entropy_bonus * beta_entropy(alpha, beta).mean()
        value_loss = (self.critic(rows.state) - target).square().mean()
        for optimizer, loss in zip(self._optimizers, (policy_loss, value_loss), strict=True):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    @torch.no_grad()
    def _diagnose(self, rows: RolloutRows, value: Tensor, target: Tensor) -> None:
        alpha, beta = self.actor(rows.state)
        log_ratio = beta_log_prob(rows.action, alpha, beta) - rows.log_prob
        self.diagnostics = {
            "approximate_kl": approximate_kl(log_ratio),
            "clip_fraction": clip_fraction(log_ratio, self._config.clip),
            "entropy": beta_entropy(alpha, beta).mean(),
            "concentration": (alpha + beta).mean(),
            "explained_variance": explained_variance(value, target),
            "rollout_mean_action": rows.action.mean(),
            "rollout_mean_utility": rows.utility.mean(),
        }

    def _make_projection(self, width: int, state_width: int) -> Tensor | None:
        if width == state_width:
            return None
        draws = generator(self._seed, Purpose.PROJECTION)
        matrix = torch.randn(width, state_width, generator=draws) / state_width**0.5
        return matrix.to(self._device, self._dtype)

    def _adam(self, network: nn.Module) -> torch.optim.Adam:
        return torch.optim.Adam(
            network.parameters(),
            lr=self._config.learning_rate,
            eps=1e-5,
            weight_decay=self._config.weight_decay,
        )


def _on_host(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}


def _adam_state(optimizer: torch.optim.Adam) -> list[dict[str, Tensor]]:
    """One dict of slots for each parameter, in order; empty before the first step."""
    return [_on_host(slots) for slots in optimizer.state_dict()["state"].values()]


def _load_adam(optimizer: torch.optim.Adam, slots: list[dict[str, Tensor]]) -> None:
    groups = optimizer.state_dict()["param_groups"]
    parameters = optimizer.param_groups[0]["params"]
    if len(slots) not in (0, len(parameters)):
        raise CheckpointError(f"Adam has {len(parameters)} parameters, the state {len(slots)}.")
    for parameter, slot in zip(parameters, slots, strict=False):
        require_tensor(slot, "exp_avg", shape=tuple(parameter.shape), dtype=parameter.dtype)
        require_tensor(slot, "exp_avg_sq", shape=tuple(parameter.shape), dtype=parameter.dtype)
    state = {i: {k: v.clone() for k, v in slot.items()} for i, slot in enumerate(slots)}
    optimizer.load_state_dict({"state": state, "param_groups": groups})
