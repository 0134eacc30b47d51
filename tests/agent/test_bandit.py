"""The test that the official release fails: does the agent find out which samples are good?

A contextual bandit. A sample is good if the signs of two hidden coordinates agree, and its features
are a non-linear image of the hidden coordinates: no linear policy can tell. Good
samples show high losses and uncertain outputs, bad ones low losses and sure outputs.
"""

from dataclasses import dataclass

import pytest
import torch

from data_agent import DataAgent, DataAgentConfig, Feedback
from data_agent.agent.learner import expected_action

SIZE, BATCH_SIZE, KEEP_RATIO = 10_000, 32, 0.5
VISITS = 200_000


@dataclass
class Bandit:
    features: torch.Tensor
    good: torch.Tensor
    draws: torch.Generator

    @classmethod
    def of(cls, seed):
        draws = torch.Generator().manual_seed(seed)
        hidden = torch.randn(SIZE, 3, generator=draws)
        hidden = hidden.sign() * (hidden.abs() + 0.25)  # no sample sits on the border
        weights, bias = torch.randn(3, 24, generator=draws), torch.randn(24, generator=draws)
        noise = 0.05 * torch.randn(SIZE, 24, generator=draws)
        hidden[: SIZE // 2, 1] = hidden[: SIZE // 2, 0].sign() * hidden[: SIZE // 2, 1].abs()
        hidden[SIZE // 2 :, 1] = -hidden[SIZE // 2 :, 0].sign() * hidden[SIZE // 2 :, 1].abs()
        good = torch.arange(SIZE) < SIZE // 2  # half and half, exactly
        return cls(torch.tanh(hidden @ weights + bias) + noise, good, draws)

    def feedback(self, index):
        good = self.good[index].float()
        losses = good + 0.1 * torch.randn(len(index), generator=self.draws)
        uncertainty = 0.3 + 0.4 * good + 0.1 * torch.randn(len(index), generator=self.draws)
        return Feedback(
            index, losses, features=self.features[index], uncertainty=uncertainty.clamp(0, 1)
        )


def play(bandit, agent, until):
    """Observe whole epochs up to `until` visits; the share of good samples in each selection."""
    shares = []
    first = 0 if agent.epoch is None else agent.epoch + 1
    for epoch in range(first, agent.schedule.epochs):
        if agent.visits >= until:
            break
        agent.begin_epoch(epoch)
        selected = agent.select(epoch).index
        shares.append(bandit.good[selected].float().mean().item())
        order = selected[torch.randperm(len(selected), generator=bandit.draws)]
        for index in order.split(BATCH_SIZE):
            agent.observe(bandit.feedback(index))
    return shares


def policy_means(bandit, agent):
    """The policy's mean action on good and on bad states."""
    learner = agent.policy.learner
    action = expected_action(learner.concentration(learner.reduced(bandit.features)))
    return action[bandit.good].mean().item(), action[~bandit.good].mean().item()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_agent_learns_which_samples_are_good(seed):
    bandit = Bandit.of(seed)
    epochs = round(VISITS / (KEEP_RATIO * SIZE))
    agent = DataAgent(SIZE, epochs, keep_ratio=KEEP_RATIO, seed=seed)
    agent.use_loader(BATCH_SIZE)

    play(bandit, agent, until=60_000)
    assert agent.visits == 60_000
    next_selection = play(bandit, agent, until=60_001)[0]
    assert next_selection >= 0.9

    play(bandit, agent, until=VISITS)
    assert agent.visits == VISITS
    on_good, on_bad = policy_means(bandit, agent)
    assert on_good > 0.9
    assert on_bad < 0.1


@pytest.mark.slow
@pytest.mark.parametrize(("keep_ratio", "epochs", "best"), [(0.2, 30, 0.95), (0.8, 12, 0.625)])
def test_other_budgets(keep_ratio, epochs, best):
    """What was not visited must not move the price: with 0.2 most samples are not, for long.

    At keep ratio 0.2 the best selection holds 95 % good samples (a tenth of it is uniform), at 0.8
    all good ones there are, 62.5 %.
    """
    bandit = Bandit.of(0)
    agent = DataAgent(SIZE, epochs, keep_ratio=keep_ratio)
    agent.use_loader(BATCH_SIZE)
    shares = play(bandit, agent, until=SIZE * epochs)
    assert shares[epochs - epochs // 8 - 1] > 0.95 * best
    assert 0 <= agent.metrics()["tau"] <= 1


@pytest.mark.slow
def test_what_the_papers_reward_and_ranking_do_there():
    """r = a u makes "keep everything" optimal: actions of good *and* bad states rise.

    The ranking by the last sampled action keeps what was seen last. This documents the published
    algorithm; docs/method.md says what we do instead.
    """
    bandit = Bandit.of(0)
    agent = DataAgent(SIZE, 24, keep_ratio=KEEP_RATIO, seed=0, config=DataAgentConfig.paper())
    agent.use_loader(BATCH_SIZE)
    shares = play(bandit, agent, until=VISITS)
    on_good, on_bad = policy_means(bandit, agent)
    assert on_good > 0.9
    assert on_bad > 0.9  # saturated: measured 0.988 on good, 0.983 on bad states
    assert max(shares) < 0.6  # measured 0.525: hardly better than chance
