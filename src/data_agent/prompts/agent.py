"""The agent that chooses prompts: the library's policy as a contextual bandit over them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from data_agent.agent.learner import Learner, expected_action
from data_agent.errors import InputError
from data_agent.prompts.choice import Choice, Scored
from data_agent.prompts.config import PromptConfig
from data_agent.prompts.evidence import Evidence
from data_agent.prompts.history import READINGS
from data_agent.prompts.regression import NUM_TARGETS, FeatureReader, GroupRegression
from data_agent.prompts.replay import Replay
from data_agent.prompts.selector import PromptSelector
from data_agent.prompts.utility import Groups
from data_agent.runtime import distributed
from data_agent.runtime.random import Purpose, derived_seed, position_hash

STATE_WIDTH = len(READINGS) + NUM_TARGETS  # of history, and of what features say


class PromptAgent(PromptSelector):
    """Learns from rewards which prompts are worth rolling out; see docs/prompts.md.

    Args:
        num_prompts: N, prompts in the data set.
        generations: G, completions of each prompt, >= 2.
        batch: k, prompts of a generation batch, in [1, N].
        pool: candidates for each prompt of a batch, >= 1.
        seed: of networks, projection and every draw.
        config: how it learns.

    Raises:
        InputError: a value out of its range.
    """

    name = "prompt-agent"

    def __init__(
        self,
        num_prompts: int,
        generations: int,
        *,
        batch: int,
        pool: int = 4,
        seed: int = 0,
        config: PromptConfig | None = None,
    ) -> None:
        self.config = config = PromptConfig() if config is None else config
        if not isinstance(config, PromptConfig):
            raise InputError(f"config is a {type(config).__name__}; expected a PromptConfig(...).")
        super().__init__(
            num_prompts,
            generations,
            batch=batch,
            pool=pool,
            explore=config.explore,
            reward_range=config.reward_range,
            seed=seed,
        )
        self.num_updates = 0
        self._features = FeatureReader(config.max_features, seed)
        self._regression = GroupRegression(config.replay_rows)
        self._replay = Replay(config.replay_rows, STATE_WIDTH)
        self._evidence = Evidence(config.evidence_rows)
        self._learner = Learner(
            config.of_policy(),
            STATE_WIDTH,
            seed=seed,
            keep_ratio=batch / self.num_candidates,
            device=torch.device("cpu"),
        )
        self._compared: dict[str, float] = {}

    def score(self, index: Tensor, features: Tensor | None) -> Scored:
        """Drawn actions, once these are known to tell prompts apart.

        Mean action, state and features of each are handed back when its rewards are there.
        """
        read = self._features.read(features, len(index))
        history = self.history.readings(index, self.step)
        states = torch.cat([history, self._regression.predict(read)], 1)
        parameters = self._learner.concentration(states)
        columns = torch.cat([expected_action(parameters).unsqueeze(1), states, read], 1)
        if not self._evidence.is_clear():
            return Scored(columns=columns)
        return Scored(self._learner.draw(parameters, Purpose.ACTION, self.step), columns)

    def update(self, choice: Choice, groups: Groups) -> None:
        """Compare what was predicted with what came, and every few batches learn from it."""
        assert choice.columns is not None
        is_known = ~groups.utility.isnan()
        if is_known.any():
            utility = groups.utility[is_known]
            columns = choice.columns[is_known]
            action, states, read = columns.tensor_split((1, 1 + STATE_WIDTH), 1)
            self._compare(action[:, 0], utility)
            self._replay.add(states, utility, choice.is_uniform[is_known])
            self._regression.add(read, utility, groups.success[is_known])
        if (self.step + 1) % self.config.update_every == 0 and len(self._replay):
            self._learn_from_replay()

    def method_metrics(self) -> dict[str, float]:
        """How predictions compare with what came, and PPO's diagnostics."""
        return {
            "policy_updates": float(self.num_updates),
            "policy_decides": float(self._evidence.is_clear()),
            "prediction_correlation": self._evidence.correlation(),
            **self._compared,
            **{f"policy/{name}": v for name, v in self._learner.diagnostics().items()},
        }

    def summary(self) -> str:
        """One line for a person."""
        says = "the policy decides" if self._evidence.is_clear() else "drawn uniformly for now"
        correlation = self._evidence.correlation()
        return f"{super().summary()}; {says} (prediction against utility: r = {correlation:.2f})"

    def method_state(self) -> dict[str, Any]:
        """Learner, rows and counters; a collective call on several ranks."""
        return {
            "num_features": self._features.num_features,
            "num_updates": self.num_updates,
            "regression": self._regression.state_dict(),
            "replay": self._replay.state_dict(),
            "evidence": self._evidence.state_dict(),
            "learner": self._learner.state_dict(),
        }

    def load_method_state(self, state: Mapping[str, Any]) -> None:
        """Take over what `method_state` returned."""
        num_features = state["num_features"]
        self._features.expect(None if num_features is None else int(num_features))
        self.num_updates = int(state["num_updates"])
        self._regression.load_state_dict(state["regression"], self._features.width)
        self._replay.load_state_dict(state["replay"])
        self._evidence.load_state_dict(state["evidence"])
        self._learner.load_state_dict(state["learner"])

    def _learn_from_replay(self) -> None:
        """An update from a sub-sample of the rows.

        Old rows are as good as new ones: actions are drawn at the update, from the policy as it
        stands, and what an action would have earned at a known utility is known.
        """
        replay, learner = self._replay, self._learner
        if distributed.rank() == 0:  # every rank has all rows: one hands them to all
            seed = derived_seed(self.seed, Purpose.ROLLOUT, self.step)
            key = position_hash(torch.arange(len(replay)), seed)
            labels = torch.stack([key, torch.full_like(key, self.step)], 1)
            learner.act(replay.states, replay.utility, labels, replay.is_uniform)
        with distributed.together("learn of a PromptAgent"):
            learner.update(self.num_updates, progress=0.0)
        self.num_updates += 1

    def _compare(self, action: Tensor, utility: Tensor) -> None:
        if self._evidence.is_clear():
            predicted = float(self._evidence.predict(action).mean())
            self._compared = {
                "predicted_utility": predicted,
                "observed_utility": float(utility.mean()),
            }
        self._evidence.add(action, utility)
