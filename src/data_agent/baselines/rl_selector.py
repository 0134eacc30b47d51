"""RL-Selector: a policy learns to drop samples that others of their class cover.

Yang et al. 2025, "RL-Selector: Reinforcement Learning-Guided Data Selection via Redundancy
Assessment" (ICCV), https://arxiv.org/abs/2506.21037. A sample is covered by another of its class
whose features lie within epsilon; `E_i = sum_j ||h_i - h_j||` over its class is low for covered
ones. While a target model trains, an actor and a critic of three linear layers each see the
features h and learn by A2C which samples to keep. The reward is `r_1`, which punishes a share of
kept samples other than the keep ratio, plus `r_2 = E_i a_i`; the losses are `-log pi(a|s) A` and
`A^2`. At the end the policy's probabilities rank the samples. The target model is thrown away.

Departures. Written from a summary of the paper; no code is public. What we could not know, and
chose: the action is a Bernoulli draw with the actor's probability; A is one-step, `r - V(s)`; `r_1`
is minus the deviation, divided by the largest that is possible on its side; E is standardised
within each class (as a sum of distances it is positive, and "keep everything" would be optimal, see
docs/decisions/0002-centred-reward.md); features are standardised; Adam at 1e-3, batches of 256; the
target model trains for a fifth of the run's epochs, and the policy learns after each. Instead of
the threshold 0.5 with a tolerance of 1 % of the ratio, the K most probable samples are kept.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from data_agent.agent.networks import _mlp
from data_agent.baselines.static import Static, short_epochs
from data_agent.budget.schedule import SelectionSchedule
from data_agent.runtime.random import Purpose, generator
from data_agent.selecting.proxy import Proxy, Visit

_HIDDEN = 128
_BATCH_SIZE = 256
_LEARNING_RATE = 1e-3
_ROWS = 1024  # of a distance matrix at a time


class RLSelector(Static):
    """Keeps the highest scores: the probabilities of a trained `SelectionPolicy`."""

    name = "rl-selector"

    @classmethod
    def prepare(cls, proxy: Proxy, budget: SelectionSchedule) -> dict[str, Tensor]:
        """The probabilities of a policy that learned beside one network."""
        learning = _Learning(proxy, budget)
        proxy.train(short_epochs(budget), on_batch=learning.note)
        return {"scores": learning.probabilities()}


class _Learning:
    """A policy that learns after each epoch of a target model, from features as they were seen."""

    def __init__(self, proxy: Proxy, budget: SelectionSchedule) -> None:
        self._proxy, self._keep_ratio = proxy, budget.keep_ratio
        self._features = torch.empty(0)
        self._policy: SelectionPolicy | None = None
        self._num_seen = 0

    def note(self, visit: Visit) -> None:
        """Take a batch's features in; at the end of an epoch the policy learns."""
        labels = self._proxy.labels
        if self._policy is None:
            width = visit.features.shape[1]
            self._features = torch.zeros(len(labels), width)
            self._policy = SelectionPolicy(width, self._keep_ratio, seed=self._proxy.seed)
        self._features[visit.index] = visit.features.cpu()
        self._num_seen += len(visit.index)
        if self._num_seen % len(labels) == 0:
            self._policy.learn(self._features, labels)

    def probabilities(self) -> Tensor:
        """Of keeping each sample, float32 `[N]`."""
        assert self._policy is not None
        return self._policy.probabilities(self._features)


class SelectionPolicy:
    """Actor and critic of features of D = `width`, on the CPU; `seed` is that of all draws."""

    def __init__(self, width: int, keep_ratio: float, *, seed: int) -> None:
        self._keep_ratio = keep_ratio
        self._seed = seed
        self._num_updates = 0
        self._actor, self._critic = (
            _mlp(width, _HIDDEN, 1, seed=seed, network=number, gain=gain, dtype=torch.float32)
            for number, gain in ((0, 0.01), (1, 1.0))
        )
        parameters = [*self._actor.parameters(), *self._critic.parameters()]
        self._optimizer = torch.optim.Adam(parameters, lr=_LEARNING_RATE)

    def learn(self, features: Tensor, labels: Tensor) -> None:
        """One pass over all samples: features `[N, D]` as the target model sees them now."""
        worth = standardised_within(class_distance(features, labels), labels)
        state = _standardised(features)
        draws = generator(self._seed, Purpose.ACTION, self._num_updates)
        for index in torch.randperm(len(state), generator=draws).split(_BATCH_SIZE):
            self._update(state[index], worth[index], draws)
        self._num_updates += 1

    def probabilities(self, features: Tensor) -> Tensor:
        """The actor's probability to keep each sample, float32 `[N]`."""
        with torch.no_grad():
            return torch.sigmoid(self._actor(_standardised(features)).squeeze(1))

    def _update(self, state: Tensor, worth: Tensor, draws: torch.Generator) -> None:
        logits = self._actor(state).squeeze(1)
        actions = torch.bernoulli(torch.sigmoid(logits.detach()), generator=draws)
        reward = ratio_reward(actions, self._keep_ratio) + redundancy_reward(actions, worth)
        advantage = reward - self._critic(state).squeeze(1)
        log_probability = -F.binary_cross_entropy_with_logits(logits, actions, reduction="none")
        loss = -(log_probability * advantage.detach()).mean() + advantage.square().mean()
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()


def class_distance(features: Tensor, labels: Tensor) -> Tensor:
    """E_i = sum_j ||h_i - h_j|| over the samples j of its class, float32 `[N]`."""
    total = torch.zeros(len(labels))
    for label in labels.unique():
        members = (labels == label).nonzero().squeeze(1)
        own = features[members].float()
        rows = [torch.cdist(part, own).sum(1) for part in own.split(_ROWS)]
        total[members] = torch.cat(rows).cpu()
    return total


def ratio_reward(actions: Tensor, keep_ratio: float) -> Tensor:
    """r_1, a scalar in [-1, 0]: zero at the ratio, -1 where no sample or every sample is kept.

    Actions are float `[B]`, 1 where a sample is kept, 0 elsewhere.
    """
    deviation = actions.mean() - keep_ratio
    too_many = deviation.clamp_min(0) / max(1 - keep_ratio, 1e-6)
    return -(too_many + (-deviation).clamp_min(0) / keep_ratio)


def redundancy_reward(actions: Tensor, worth: Tensor) -> Tensor:
    """r_2 = E_i a_i, float `[B]`; E is high for samples that no other covers."""
    return worth * actions


def standardised_within(values: Tensor, labels: Tensor) -> Tensor:
    """Zero mean and unit variance in each class, `[N]`; zeros where all of a class are equal."""
    result = torch.zeros_like(values)
    for label in labels.unique():
        is_own = labels == label
        own = values[is_own] - values[is_own].mean()
        result[is_own] = own / own.square().mean().sqrt().clamp_min(1e-6)
    return result


def _standardised(features: Tensor) -> Tensor:
    features = features.float().cpu()
    deviation = features.std(0, correction=0).clamp_min(1e-6)
    return ((features - features.mean(0)) / deviation).clamp(-5, 5)
