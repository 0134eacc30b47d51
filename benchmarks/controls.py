"""Methods to measure by: of trusted rows what knows the truth, likeness of features alone, and PPO.

PYTHONPATH=benchmarks data-agent compare --suite trusted --seeds 5 --output runs/trusted
--methods random,data-agent,controls:Oracle,controls:NearestTrusted,controls:PolicyOnTrusted
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from data_agent import DataAgent, DataAgentConfig, Feedback, SelectionSchedule, Selector
from data_agent.baselines.inputs import checked_scores
from data_agent.baselines.scored import Scored
from data_agent.runtime.random import Purpose, derived_seed
from data_agent.runtime.state import checksum
from data_agent.runtime.topk import top_k_mask
from data_agent.selecting.trusted_rows import trusted_mask
from data_agent.trusted.policy import TrustedConfig
from data_agent.trusted.reward import TrustedReward


class Oracle(Selector):
    """A uniform draw of the samples whose label is true; no method that is told less can expect it.

    Args:
        scores: float `[N]`, 1 where the label is true, 0 where it is wrong or the sample foreign.
        base: as `Selector`.
    """

    name = "oracle"
    required = ("scores",)
    default_schedule = "to-the-end"

    def __init__(self, *, scores: Tensor, **base: Any) -> None:
        super().__init__(**base)
        self.scores = checked_scores(scores, self.schedule.num_samples)

    @classmethod
    def prepare(cls, proxy: Any, budget: SelectionSchedule) -> dict[str, Tensor]:
        """Read the truth, which the lab's engine knows where it made the wrong labels itself."""
        del budget
        truth = proxy.engine.data.clean_labels
        return {"scores": (proxy.labels == truth).float()}

    def settings(self) -> dict[str, Any]:
        """A checksum of the scores."""
        return {"scores": checksum(self.scores)}

    def choose(self, epoch: int, count: int, excluded: Tensor) -> Tensor:
        """True labels first, drawn anew in each epoch."""
        draw = derived_seed(self.seed, Purpose.TIE, epoch)
        mask = top_k_mask(self.scores, count, tie_seed=draw, excluded=excluded)
        return mask.nonzero().squeeze(1)


class NearestTrusted(Scored):
    """The score is the cosine of a sample's feature with that of the nearest trusted row.

    Likeness of representations is what targeted selection of instructions goes by: Ivison et al.
    2025, https://arxiv.org/abs/2503.01807. Here it is taken at each visit, from the model as it is.
    """

    name = "nearest-trusted"
    reads = ("features",)
    default_schedule = "to-the-end"
    explore = 0.1

    def __init__(self, *, trusted: Tensor, **base: Any) -> None:
        super().__init__(trusted=trusted, **base)
        self.anchors = torch.zeros(len(trusted), 0)
        self._row = torch.full((self.schedule.num_samples,), -1, dtype=torch.int64)
        self._row[trusted] = torch.arange(len(trusted))

    def score(self, feedback: Feedback) -> Tensor:
        """Between -1 and 1, float `[B]`; zero as long as no trusted row was seen."""
        assert feedback.features is not None
        features = F.normalize(feedback.features.float().cpu(), dim=1)
        if not self.anchors.shape[1]:
            self.anchors = torch.zeros(len(self.anchors), features.shape[1])
        row = self._row[feedback.index]
        self.anchors[row[row >= 0]] = features[row >= 0]
        return (features @ self.anchors.T).amax(1)

    def method_state(self) -> dict[str, Any]:
        """The scores, and the features of trusted rows."""
        return super().method_state() | {"anchors": self.anchors.clone()}

    def load_method_state(self, state: dict[str, Any]) -> None:
        """Take over what `method_state` returned."""
        self.scores, self.anchors = state["scores"].clone(), state["anchors"].clone()


class PolicyOnTrusted(DataAgent):
    """PPO on the reward that trusted rows teach, in place of the policy in closed form.

    The same regression, as often, from the same rows; its odds are the policy's only signal. The
    policy sees features, so it can generalise from a row to others like it; the closed form has
    only what each row showed at its own visits.
    """

    name = "policy-on-trusted"

    def __init__(self, num_samples: int, epochs: int, *, trusted: Tensor, **base: Any) -> None:
        is_trusted = trusted_mask(trusted, num_samples)
        learned = TrustedConfig()
        reward = TrustedReward(is_trusted, seed=base.get("seed", 0), ridge=learned.ridge)

        def likeness(feedback: Feedback) -> Tensor:
            return reward.peek(feedback.having(features=None)).sigmoid()

        config = DataAgentConfig(
            signals=(likeness,), schedule="to-the-end", explore=learned.explore
        )
        super().__init__(num_samples, epochs, config=config, **base)
        self.reads = (*self.reads, "logits", "labels")
        self.trusted = is_trusted
        self._compose()
        self._reward, self._update_every = reward, learned.update_every

    def record(self, feedback: Feedback) -> Tensor:
        """The regression learns from the rows too."""
        step = self.policy.cadence.steps_of(feedback.sizes)
        uniform = self.uniform_rows(feedback.index)
        self._reward.rate(feedback.having(features=None), uniform, step)
        return super().record(feedback)

    def after_observe(self, num_rows: int) -> None:
        """A regression is due as often as that of the closed form."""
        super().after_observe(num_rows)
        if self.policy.cadence.num_steps % self._update_every == 0:
            self.settle()
            self._reward.update()

    def method_state(self) -> dict[str, Any]:
        """The policy's and the regression's."""
        return super().method_state() | {"trusted_reward": self._reward.state_dict()}

    def load_method_state(self, state: dict[str, Any]) -> None:
        """Take over what `method_state` returned."""
        super().load_method_state(state)
        self._reward.load_state_dict(state["trusted_reward"])
