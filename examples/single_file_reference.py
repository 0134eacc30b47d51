"""The policy in one file, written like the paper: it imports nothing of the package, and is slow.

Read it to see the whole method at once; `tests/test_reference.py` checks that the package, which is
built for speed and for many ranks, chooses the same samples and learns the same policy. Float64
throughout, with `DataAgent`'s default schedule "exact".
Run it: `python examples/single_file_reference.py`.

Method: "Data Agent: Learning to Select Data via End-to-End Dynamic Optimization",
https://arxiv.org/abs/2603.07433, with the corrections that docs/method.md explains.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F

# Purposes of random draws; every draw has its own seed (seed, purpose, position...).
PERMUTATION, ORDER, NETWORK, PROJECTION, ACTION, ROLLOUT, REDRAW, TIE, EXPLORE = range(9)
UPDATE = 13


def derived_seed(seed, *path):
    a, b = np.random.SeedSequence([seed, *path]).generate_state(2, np.uint32)
    return (int(a) << 31) ^ int(b)


def draws(seed, *path):
    return torch.Generator().manual_seed(derived_seed(seed, *path))


def hash_of(position, seed):
    """SplitMix64 of a position, its upper half: a random number that needs no generator."""
    z = (position + (seed + 1) * 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z >> 32


def mlp(inputs, outputs, last_gain, generator):
    sizes = [(inputs, 128, 2**0.5), (128, 128, 2**0.5), (128, outputs, last_gain)]
    parameters = []
    for width_in, width_out, gain in sizes:
        weight = torch.empty(width_out, width_in, dtype=torch.float64)
        torch.nn.init.orthogonal_(weight, gain=gain, generator=generator)
        parameters += [weight, torch.zeros(width_out, dtype=torch.float64)]
    return [p.requires_grad_() for p in parameters]


def apply(parameters, x):
    x = torch.relu(x @ parameters[0].T + parameters[1])
    x = torch.relu(x @ parameters[2].T + parameters[3])
    return x @ parameters[4].T + parameters[5]


class ReferenceAgent:
    def __init__(self, num_samples, epochs, keep_ratio, seed, batch_size):
        self.n, self.epochs, self.ratio, self.seed = num_samples, epochs, keep_ratio, seed
        self.k = max(1, math.floor(keep_ratio * num_samples + 0.5))
        steps = self.k * epochs / batch_size
        self.update_interval = max(10, math.ceil(256 / batch_size), math.ceil(steps / 640))
        self.alpha = torch.ones(num_samples, dtype=torch.float16)  # the prior is Beta(1, 1)
        self.beta = torch.ones(num_samples, dtype=torch.float16)
        self.streams = {PERMUTATION: [], EXPLORE: []}  # what is left of each stream's pass
        self.passes = {PERMUTATION: 0, EXPLORE: 0}
        self.uniform = set()  # samples of the running epoch that were drawn uniformly
        self.uniform_actions = []
        self.news = {}  # sample -> (alpha, beta) of the running epoch
        self.batches = []  # (index, utility, features) that the policy has not acted on yet
        self.rollout = []  # (key, features, utility)
        self.history = []  # features since the last update, for the running statistics
        self.stats = None  # count, mean, sum of squares: of features
        self.reward_stats = (0.0, 0.0, 0.0)
        self.tau = None
        self.mean_action = math.nan  # of the policy on a uniform sample of the data
        self.steps = self.visits = self.updates = 0
        self.epoch = 0
        self.actor = None

    # -- which samples -------------------------------------------------------------------------

    def select(self, epoch):
        """Begin `epoch`: the set of its samples."""
        self.act()
        self.epoch = epoch
        for parameters in (self.alpha, self.beta):  # what was not visited drifts to the prior
            if self.news:
                parameters += 0.02 * (1 - parameters)
        for sample, (alpha, beta) in self.news.items():
            self.alpha[sample], self.beta[sample] = alpha, beta
        self.news = {}
        warm_up_left = min(self.n, self.k * self.epochs) - epoch * self.k
        is_final = epoch >= self.epochs - self.epochs // 8
        unselected = self.k if is_final else max(0, min(self.k, warm_up_left))
        chosen = self.next_of(PERMUTATION, unselected)
        if unselected == 0:  # a tenth of a selected epoch is uniform, so that nothing is given up
            chosen += self.next_of(EXPLORE, math.floor(0.1 * self.k + 0.5))
        self.uniform = set(chosen)
        scores = self.redraw(epoch)
        for sample in sorted(range(self.n), key=lambda i: -scores[i]):
            if len(chosen) == self.k:
                break
            if sample not in chosen:
                chosen.append(sample)
        return sorted(chosen)

    def next_of(self, stream, count):
        taken = self.streams[stream][:count]
        self.streams[stream] = self.streams[stream][count:]
        if len(taken) < count:
            seed = derived_seed(self.seed, stream, self.passes[stream])
            self.passes[stream] += 1
            order = sorted(range(self.n), key=lambda i: -hash_of(i, seed))
            fresh = [i for i in order if i not in taken][: count - len(taken)]
            self.streams[stream] = [i for i in order if i not in fresh]
            taken = taken + fresh
        return taken

    def redraw(self, epoch):
        """A fresh action for every sample."""
        actions = []
        for block, start in enumerate(range(0, self.n, 65_536)):
            generator = draws(self.seed, REDRAW, epoch, block)
            rows = slice(start, start + 65_536)
            first = torch._standard_gamma(self.alpha[rows].float(), generator=generator)
            second = torch._standard_gamma(self.beta[rows].float(), generator=generator)
            actions += (first / (first + second)).tolist()
        return actions

    # -- what a batch teaches ------------------------------------------------------------------

    def observe(self, index, losses, logits, features):
        if self.actor is None:
            width = features.shape[1]
            self.actor = mlp(width, 2, 0.01, draws(self.seed, NETWORK, 0))
            self.critic = mlp(width, 1, 1.0, draws(self.seed, NETWORK, 1))
            settings = {"lr": 1e-3, "eps": 1e-5, "weight_decay": 5e-4}
            self.actor_adam = torch.optim.Adam(self.actor, **settings)
            self.critic_adam = torch.optim.Adam(self.critic, **settings)

        # Utility: difficulty and uncertainty, weighted by their variance.
        clipped = losses.clamp(max=float(np.quantile(losses.numpy(), 0.95)))
        difficulty = (clipped - clipped.min()) / max(float(clipped.max() - clipped.min()), 1e-8)
        p = torch.softmax(logits, 1)
        uncertainty = -(p * p.log()).sum(1) / math.log(logits.shape[1])
        w = difficulty.var(unbiased=False)
        w = w / (w + uncertainty.var(unbiased=False) + 1e-8)
        utility = w * difficulty + (1 - w) * uncertainty

        self.batches.append((index, utility, features))
        self.visits += len(index)
        self.steps += 1
        if self.steps % self.update_interval == 0:
            self.act()
            self.update()

    def act(self):
        """What the policy says of all samples since it last acted; nothing of it changed since."""
        if not self.batches:
            return
        index, utility, features = (torch.cat(parts) for parts in zip(*self.batches, strict=True))
        self.batches = []

        # State: standardised by statistics that stand still between updates.
        self.history.append(features)
        if self.stats is None:
            state = self.standardised(features, remember(None, torch.cat(self.history)))
        else:
            state = self.standardised(features, self.stats)

        # Policy: a Beta distribution for each sample.
        with torch.no_grad():
            alpha, beta = self.policy(state)
        seed = derived_seed(self.seed, ROLLOUT, self.epoch)
        keys = [hash_of(i, seed) for i in index.tolist()]
        self.rollout += list(zip(keys, features, utility, strict=True))
        for i, a, b in zip(index.tolist(), alpha.float(), beta.float(), strict=True):
            self.news[i] = (a.to(torch.float16), b.to(torch.float16))
        for i, expected in zip(index.tolist(), alpha / (alpha + beta), strict=True):
            if i in self.uniform:
                self.uniform_actions.append(expected)

    @staticmethod
    def standardised(features, stats):
        count, mean, squares = stats
        return ((features - mean) / (squares / count).sqrt()).clamp(-5, 5)

    def policy(self, state):
        alpha, beta = (1 + F.softplus(apply(self.actor, state))).unbind(1)
        return alpha, beta

    def update(self):
        """PPO on 256 random rows of what was observed since the last update."""
        self.stats = remember(self.stats, torch.cat(self.history))
        self.history = []
        rows = sorted(self.rollout, key=lambda row: row[0])[:256]
        self.rollout = []
        features, utility = (torch.stack(column) for column in list(zip(*rows, strict=True))[1:])
        state = self.standardised(features, self.stats)

        # An action for each of them, of the policy as it stands.
        with torch.no_grad():
            parameters = torch.stack(self.policy(state), 1)
            generator = draws(self.seed, UPDATE, self.updates)
            gamma = torch._standard_gamma(parameters, generator=generator)
            action = (gamma[:, 0] / gamma.sum(1)).clamp(1e-6, 1 - 1e-6)
            old_log_prob = torch.distributions.Beta(*parameters.unbind(1)).log_prob(action)
        self.updates += 1

        # Reward: an action pays above the price tau, which keeps the mean action at the budget.
        if self.tau is None:
            self.tau = float(utility.mean())
        if self.uniform_actions:
            self.mean_action = float(torch.stack(self.uniform_actions).mean())
        self.uniform_actions = []
        self.tau = min(1.0, max(0.0, self.tau + 0.05 * (self.mean_action - self.ratio)))
        reward = action * (utility - self.tau)
        self.reward_stats = remember(self.reward_stats, reward)
        count, mean, squares = self.reward_stats
        reward = (reward - mean) / (squares / count) ** 0.5

        with torch.no_grad():
            value = apply(self.critic, state)[:, 0]
        advantage = reward - value
        target = advantage + value
        advantage = (advantage - advantage.mean()) / (advantage.std(unbiased=False) + 1e-8)
        for adam in (self.actor_adam, self.critic_adam):
            adam.param_groups[0]["lr"] = 1e-3 * (1 - self.visits / (self.k * self.epochs))
        for _ in range(6):
            distribution = torch.distributions.Beta(*self.policy(state))
            ratio = (distribution.log_prob(action) - old_log_prob).exp()
            surrogate = torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean()
            self.actor_adam.zero_grad()
            (-surrogate - 0.01 * distribution.entropy().mean()).backward()
            self.actor_adam.step()
            self.critic_adam.zero_grad()
            ((apply(self.critic, state)[:, 0] - target) ** 2).mean().backward()
            self.critic_adam.step()


def remember(stats, rows):
    """Add rows to (count, mean, squared deviations); at most 10,000 rows weigh."""
    count, mean, squares = (0.0, 0.0, 0.0) if stats is None else stats
    new_mean, size = rows.mean(0), len(rows)
    squares = squares + ((rows - new_mean) ** 2).sum(0)
    squares = squares + (new_mean - mean) ** 2 * count * size / (count + size)
    mean = mean + (new_mean - mean) * size / (count + size)
    count = count + size
    fade = min(1.0, 10_000 / count)
    return count * fade, mean, squares * fade


def train(agent, *, num_samples, epochs, batch_size, seed):
    """A toy task in float64. `agent` has select and observe; yields each epoch's samples."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(num_samples, 8, generator=generator, dtype=torch.float64)
    y = (x[:, 0] * x[:, 1] > 0).long() + 2 * (x[:, 2] > 0).long()
    w1 = (0.5 * torch.randn(8, 12, generator=generator, dtype=torch.float64)).requires_grad_()
    w2 = (0.5 * torch.randn(12, 4, generator=generator, dtype=torch.float64)).requires_grad_()
    optimizer = torch.optim.SGD([w1, w2], lr=0.3)
    for epoch in range(epochs):
        chosen = torch.tensor(agent.select(epoch))
        yield chosen
        order = chosen[torch.randperm(len(chosen), generator=draws(seed, ORDER, epoch))]
        for index in order.split(batch_size):
            features = torch.tanh(x[index] @ w1)
            logits = features @ w2
            losses = F.cross_entropy(logits, y[index], reduction="none")
            agent.observe(index, losses.detach(), logits.detach(), features.detach())
            optimizer.zero_grad()
            losses.mean().backward()
            optimizer.step()


def main():
    size, epochs, batch_size = 1000, 24, 50
    agent = ReferenceAgent(size, epochs, 0.5, seed=0, batch_size=batch_size)
    run = train(agent, num_samples=size, epochs=epochs, batch_size=batch_size, seed=0)
    before = set()
    for epoch, chosen in enumerate(run):
        now = set(chosen.tolist())
        print(
            f"epoch {epoch:2}: {len(now)} samples, {len(now & before)} of them again, "
            f"mean action {agent.mean_action:.3f}, tau {agent.tau}"
        )
        before = now


if __name__ == "__main__":
    main()
