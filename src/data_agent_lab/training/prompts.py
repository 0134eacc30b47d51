"""The engine of prompt tasks: roll out what a method chooses, and train on it by GRPO."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from data_agent.errors import InputError
from data_agent.prompts import PromptSelector, make_prompt_selector
from data_agent.runtime import distributed
from data_agent_lab.data.problems import Problem, ProblemData
from data_agent_lab.methods import RANDOM
from data_agent_lab.recipes import PromptRecipe, RunConfig
from data_agent_lab.training.decoder import Decoder, complete, features_of, log_probs
from data_agent_lab.training.engine import Engine, Hook, Position
from data_agent_lab.training.grpo import (
    Rollout,
    group_advantages,
    joined,
    policy_loss,
    rewards_of,
)
from data_agent_lab.training.warm_up import new_model, right_answers, warmed_up

_PARTS = ("model", "optimizer", "prompts")  # of a checkpoint
_DRAWS = 2  # of each held-out problem: its mean is less of a matter of luck
_MAX_NORM = 1.0  # of the gradient


def check_one_process() -> None:
    """Raise `InputError` under torchrun, before anything is written."""
    if distributed.world_size() > 1:
        raise InputError("prompt tasks train in one process. Run it without torchrun.")


@dataclass(frozen=True, slots=True)
class _Budget:
    """What `run` asks of a schedule: completions are samples."""

    epochs: int
    num_samples: int
    kind: str = "exact"


class _Told:
    """What `run` asks of a selector."""

    def __init__(self, recipe: PromptRecipe, prompts: PromptSelector) -> None:
        self.schedule = _Budget(recipe.epochs, recipe.num_completions)
        self.metrics, self.table = prompts.metrics, prompts.table
        self.overhead_seconds = 0.0

    @contextmanager
    def clock(self) -> Generator[None]:
        """The block is time of choosing."""
        start = time.perf_counter()
        yield
        self.overhead_seconds += time.perf_counter() - start


class PromptEngine(Engine):
    """Rolls prompts out and trains on their completions; a step is a generation batch.

    Attributes:
        prompts: chooses them.
        generated_tokens: of all completions.
    """

    eval_batch: ClassVar[int] = 256
    saves_every_epoch: ClassVar[bool] = True
    model: Decoder
    data: ProblemData
    recipe: PromptRecipe
    selector: Any

    def build(self) -> None:
        """The warmed-up model, and what chooses its prompts."""
        recipe, seed = self.recipe, self.config.seed
        self.labels = self.true_labels = None  # nothing is classified
        self.model = new_model(recipe, self.device)
        self.model.load_state_dict(warmed_up(recipe, self.device))
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        self.prompts = _method(self.config, self.data)
        self.selector = _Told(recipe, self.prompts)
        self.generated_tokens = 0
        self._kept: list[Rollout] = []
        self.position.num_steps = recipe.epochs * recipe.batches
        self.position.learning_rate = recipe.learning_rate
        torch.manual_seed(seed)

    def train(self, hook: Hook) -> None:
        """Train until the run is complete, or the hook says to stop."""
        position = self.position
        self.ledger.training.start()
        while not self.is_complete:
            self._generation_batch()
            position.step += 1
            self.progress(f"epoch {position.epoch + 1}", position.step, position.num_steps)
            is_over = position.step % self.recipe.batches == 0
            position.epoch += is_over
            if hook(position.epoch - 1 if is_over else None):
                break
        self.ledger.training.stop()

    def evaluate(self, limit: int | None = None) -> dict[str, Any]:
        """Shares of held-out problems solved by a draw and greedily, in percent, and what it took.

        The share by draws is also told by kind. Draws are the same in every evaluation, and
        torch's generators are left as they were.
        """
        problems = self.data.evaluation[:limit]
        greedy: list[Tensor] = []
        drawn: list[Tensor] = []
        losses: list[Tensor] = []
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(0)
            for start in range(0, len(problems), self.eval_batch):
                part = problems[start : start + self.eval_batch]
                for found, is_greedy in ((greedy, True), *[(drawn, False)] * _DRAWS):
                    asked = [problem.prompt for problem in part]
                    with self.autocast():
                        told = complete(self.model, asked, device=self.device, greedy=is_greedy)
                    found.append((rewards_of(part, told) == 1).float())
                right = right_answers(part, self.device)
                with torch.no_grad(), self.autocast():
                    losses.append(-log_probs(self.model, right).sum(1) / right.counts.sum(1))
        return {
            "loss": float(torch.cat(losses).mean()),
            "accuracy": 100 * float(torch.cat(drawn).mean()),
            "class_accuracy": self._by_kind(problems, torch.cat(drawn)),
            "greedy": 100 * float(torch.cat(greedy).mean()),
            "completions": float(self.ledger.num_forward),
            "generated_tokens": float(self.generated_tokens),
        }

    def _by_kind(self, problems: Sequence[Problem], solved: Tensor) -> list[float | None]:
        """In percent; None where no held-out problem is of the kind.

        Args:
            problems: in the parts in which they were asked, each part `_DRAWS` times.
            solved: 1 and 0 `[_DRAWS N]`.
        """
        parts = [
            problems[i : i + self.eval_batch] for i in range(0, len(problems), self.eval_batch)
        ]
        asked = [p.category for part in parts for _ in range(_DRAWS) for p in part]
        kind = torch.tensor(asked)
        found = [solved[kind == number] for number in range(len(self.data.class_names))]
        return [100 * float(own.mean()) if len(own) else None for own in found]

    def facts(self, last: Mapping[str, Any]) -> dict[str, Any]:
        """What the result says about prompts."""
        recipe = self.recipe
        is_own = recipe.problems == "string-world"
        maker = f"world {recipe.world}" if is_own else f"{recipe.problems}, seed {recipe.world}"
        tokens = {"value": last["generated_tokens"], "unit": "tokens", "direction": "lower"}
        return {
            "evaluation": f"{self.data.num_eval:,} held-out problems of {maker}",
            "num_noisy_labels": 0,
            "further_metrics": {
                "greedy": {"value": last["greedy"], "unit": "%", "direction": "higher"},
                "generated": tokens,
            },
        }

    def finish(self) -> None:
        """Nothing is left to do: the last checkpoint holds the trained model."""

    def save(self) -> None:
        """Write a checkpoint."""
        state: dict[str, Any] = {name: getattr(self, name).state_dict() for name in _PARTS}
        rngs = {"cpu_rng": torch.get_rng_state(), "cuda_rng": None}
        if self.device.type == "cuda":
            rngs["cuda_rng"] = torch.cuda.get_rng_state(self.device)
        self.folder.save_checkpoint(
            {
                **state,
                **rngs,
                "position": asdict(self.position),
                "ledger": self.ledger.state(),
                "generated_tokens": self.generated_tokens,
                "overhead_seconds": self.selector.overhead_seconds,
                "kept": [rollout.state() for rollout in self._kept],
            }
        )

    def resume(self) -> tuple[int, float]:
        """Continue where `save` was called."""
        state = self.folder.load_checkpoint()
        if state is not None:
            for name in _PARTS:
                getattr(self, name).load_state_dict(state[name])
            self.position = Position(**state["position"])
            self.ledger.load_state(state["ledger"])
            self.generated_tokens = state["generated_tokens"]
            self.selector.overhead_seconds = state["overhead_seconds"]
            self._kept = [Rollout.of(kept, self.device) for kept in state["kept"]]
            torch.set_rng_state(state["cpu_rng"].clone())
            if state["cuda_rng"] is not None:
                torch.cuda.set_rng_state(state["cuda_rng"].clone(), self.device)
        return self.position.step, self.position.epoch

    # A generation batch.

    def _generation_batch(self) -> None:
        """Choose, roll out, learn who was worth it, and step once enough groups are kept."""
        with self.selector.clock():
            chosen = self._chosen()
        rollout = self._roll_out(chosen)
        with self.selector.clock():
            self.prompts.learn(chosen, rollout.rewards)
        keeps = self.prompts.keeps(rollout.rewards)
        num_kept = int(keeps.sum())
        num_all = rollout.rewards.numel()
        self.ledger.count(num_all - num_kept * self.recipe.generations, is_backward=False)
        if num_kept:
            self._kept.append(rollout.at(keeps))
        if sum(len(rollout.rewards) for rollout in self._kept) >= self.recipe.batch_size:
            self._step(joined(self._kept, self.recipe.batch_size))
            self._kept = []

    def _chosen(self) -> Tensor:
        """int64 `[k]`: the next prompts; features cost tokens of a forward pass."""
        index = self.prompts.candidates()
        features = None
        if len(index) > self.recipe.batch_size and self.prompts.reads_features:
            asked = [self.data.train[place].prompt for place in index.tolist()]
            with self.autocast():
                features = features_of(self.model, asked, device=self.device)
            self.ledger.count(0, sum(map(len, asked)), is_backward=False)
        return self.prompts.choose(index, features)

    def _roll_out(self, chosen: Tensor) -> Rollout:
        size = self.recipe.generations
        problems = [self.data.train[place] for place in chosen.tolist() for _ in range(size)]
        asked = [problem.prompt for problem in problems]
        with self.autocast():
            told = complete(self.model, asked, device=self.device)
        self.generated_tokens += int(told.counts.sum())
        return Rollout(told, rewards_of(problems, told).float().view(-1, size))

    def _step(self, rollout: Rollout) -> None:
        told = rollout.completions
        advantages = group_advantages(rollout.rewards).flatten().to(self.device)
        with self.autocast():
            loss = policy_loss(log_probs(self.model, told), advantages, told.counts)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), _MAX_NORM)
        self.optimizer.step()
        self.ledger.loss_sum.add_(loss.detach())
        self.ledger.num_losses += 1
        self.ledger.count(len(told.tokens), int(told.counts.sum()))


def _method(config: RunConfig[PromptRecipe], data: ProblemData) -> PromptSelector:
    """The run's method; what some must know of every prompt is its kind and length."""
    recipe = config.recipe
    given: dict[str, Any] = {
        "categories": {"categories": [problem.category for problem in data.train]},
        "buckets": {"difficulty": [float(problem.length) for problem in data.train]},
    }
    pool = {} if config.method in (RANDOM, "filtering") else {"pool": recipe.pool}
    return make_prompt_selector(
        "uniform" if config.method == RANDOM else config.method,
        num_prompts=len(data.train),
        generations=recipe.generations,
        batch=recipe.batch_size,
        seed=config.seed,
        **pool,
        **given.get(config.method, {}),
    )
