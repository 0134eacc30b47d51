"""What every method that chooses prompts has in common: the cycle, its checks, its state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from numpy.typing import NDArray
from torch import Tensor

from data_agent.errors import CheckpointError, StateError
from data_agent.prompts import doors
from data_agent.prompts.choice import Choice, Scored
from data_agent.prompts.history import History
from data_agent.prompts.pool import Pool
from data_agent.prompts.utility import Groups, combined, groups_of
from data_agent.runtime.masks import places_of, size_of
from data_agent.runtime.random import Purpose, check_seed, derived_seed
from data_agent.runtime.state import STATE_VERSION, check_header, require_tensor
from data_agent.runtime.topk import draw_mask, top_k_mask


class PromptSelector:
    """Chooses the prompts of each generation batch: `candidates`, `choose`, `learn`, and again.

    A method defines `score`; one that learns, `update`; and what they keep, `method_state` and
    `load_method_state`. `candidates` and `choose` are functions of the state: equal on every rank
    that saw the same calls.

    Args:
        num_prompts: N, prompts in the data set.
        generations: G, completions of each prompt, >= 2.
        batch: k, prompts of a generation batch, in [1, N].
        pool: candidates for each prompt of a batch, >= 1; M = min(pool k, N).
        explore: share in [0, 1] of a batch that is drawn uniformly, one prompt at least where it is
            above 0.
        reward_range: (low, high) of rewards; None takes the range of those that came so far.
        seed: of every draw.

    Raises:
        InputError: a value out of its range.
    """

    name = ""
    """What a state names the method by."""

    reads_features: ClassVar[bool] = True
    """Whether `score` looks at features, which may then be worth a forward pass."""

    def __init__(
        self,
        num_prompts: int,
        generations: int,
        *,
        batch: int,
        pool: int = 4,
        explore: float = 0.2,
        reward_range: tuple[float, float] | None = None,
        seed: int = 0,
    ) -> None:
        check_seed(seed)
        doors.check_sizes(num_prompts, generations, batch, pool)
        doors.check_share("explore", explore)
        doors.check_reward_range(reward_range)
        self.num_prompts, self.generations, self.batch = num_prompts, generations, batch
        self.num_candidates = min(pool * batch, num_prompts)
        self.num_explored = min(batch, max(1, round(explore * batch))) if explore else 0
        self.seed = seed
        self.step = 0
        """Batches that were learned from."""
        self.history = History(num_prompts, reward_range)
        self.last_groups: Groups | None = None
        self._choice: Choice | None = None
        self._counts = {"groups": 0, "informative": 0, "uniform": 0}
        self._pool = Pool(
            num_prompts,
            num_candidates=self.num_candidates,
            num_explored=self.num_explored,
            seed=seed,
        )

    # What a method defines.

    def score(self, index: Tensor, features: Tensor | None) -> Scored:
        """What candidates `index` int64 `[M]` with `features` float32 `[M, F]` are worth.

        Changes nothing that is learned or saved. By default all are worth the same.
        """
        del index, features
        return Scored()

    def update(self, choice: Choice, groups: Groups) -> None:
        """Learn from a batch; `history` knows it already. A collective call on several ranks."""

    def keeps(self, rewards: Tensor) -> Tensor:
        """Bool `[k]`: the groups of rewards `[k, G]` that are to be trained on; all by default."""
        return torch.ones(len(rewards), dtype=torch.bool)

    def method_metrics(self) -> dict[str, float]:
        """Further metrics."""
        return {}

    def method_state(self) -> dict[str, Any]:
        """What a method keeps besides the history. A collective call on several ranks."""
        return {}

    def load_method_state(self, state: Mapping[str, Any]) -> None:
        """Take over what `method_state` returned."""

    # The cycle.

    @property
    def choice(self) -> Choice | None:
        """The batch that was chosen and not yet learned from; None between the cycles."""
        return self._choice

    def candidates(self) -> Tensor:
        """int64 `[M]`, ascending and distinct: the prompts that the next batch is chosen from.

        They come from a permutation of all prompts, but for a few that displace others: those that
        will be chosen in any case, from a permutation of their own, so that all are in time.
        """
        return self._pool.candidates(self.step)

    def choose(self, index: Tensor, features: Tensor | None = None) -> Tensor:
        """int64 `[k]`, ascending and distinct: the prompts to roll out next.

        Args:
            index: int64 `[M]`, distinct: what `candidates` returned, or at least k prompts of one's
                own choice.
            features: floating `[M, F]`, one row for each of them, or None; always of one width.

        Raises:
            InputError: an index or features that cannot be used.
            StateError: nothing was learned from the last choice.
        """
        if self._choice is not None:
            raise StateError(
                f"batch {self.step} was chosen, but learn(index, rewards) was not called for it. "
                "Call it, with NaN for rewards that are not known."
            )
        doors.check_index(index, self.num_prompts, fewest=self.batch)
        scored = self.score(index, doors.checked_features(features, len(index)))
        is_uniform = self._uniform_among(index, everything=scored.ranking is None)
        chosen = is_uniform
        if (count := self.batch - size_of(is_uniform)) and scored.ranking is not None:
            seed = derived_seed(self.seed, Purpose.TIE, self.step)
            best = top_k_mask(scored.ranking, count, tie_seed=seed, excluded=is_uniform)
            chosen = is_uniform | best
        place = places_of(chosen)
        place = place[index[place].argsort()]
        columns = None if scored.columns is None else scored.columns[place]
        self._choice = Choice(index[place], is_uniform[place], columns)
        return self._choice.index.clone()

    def learn(
        self,
        index: Tensor,
        rewards: Tensor | Mapping[str, Tensor],
        *,
        weights: Tensor | None = None,
    ) -> Groups:
        """Take the rewards of the batch that `choose` returned. A collective call on several ranks.

        Args:
            index: int64 `[k]`, the chosen prompts, in any order.
            rewards: floating `[k, G]`; of several functions `[k, G, R]` or a mapping from their
                names to `[k, G]`. NaN where a function does not apply, or nothing is known.
            weights: `[R]` of the functions; None for ones.

        Returns:
            What the groups say, in the order of `index`.

        Raises:
            InputError: rewards of other prompts, or of another shape.
            StateError: nothing was chosen.
        """
        if self._choice is None:
            raise StateError("learn() came before choose(): there is no batch to learn from.")
        place = doors.place_in(self._choice.index, index)
        shape = (len(index), self.generations)
        table = combined(*doors.checked_rewards(rewards, weights, shape))
        groups = groups_of(table, *self.history.widen(table))
        ordered = Groups(*(column[place] for column in groups))
        self.history.record(self._choice.index, ordered, self.step)
        self._count(ordered)
        self.update(self._choice, ordered)
        self._choice, self.last_groups = None, ordered
        self.step += 1
        return groups

    # What a person or a logger asks.

    def metrics(self) -> dict[str, float]:
        """For any logger: shares of the last batch and of the run, and what the method adds."""
        seen = float((self.history.visits > 0).float().mean())
        metrics = {"batches": float(self.step), "share_seen": seen}
        if (groups := self.last_groups) is not None:
            total = max(1, self._counts["groups"])
            metrics |= {
                "informative": float(groups.is_informative.float().mean()),
                "informative_so_far": self._counts["informative"] / total,
                "uniform_so_far": self._counts["uniform"] / total,
                "success": _mean(groups.success),
                "utility": _mean(groups.utility),
            }
        return {**metrics, **self.method_metrics()}

    def summary(self) -> str:
        """One line for a person."""
        total, informative = self._counts["groups"], self._counts["informative"]
        share = f"{100 * informative / total:.0f} % of {total} groups" if total else "no group yet"
        return f"{self.name}: {self.step} batches, {share} informative"

    def table(self) -> dict[str, NDArray[Any]]:
        """Of each prompt, arrays `[N]`; NaN where nothing is known.

        Its index, visits, the last batch it was in (-1 for never), success in [0, 1] then and on
        average, and utility then.
        """
        names = ("visits", "last_step", "success", "mean_success", "utility")
        columns = {name: getattr(self.history, name).clone().numpy() for name in names}
        return {"index": torch.arange(self.num_prompts).numpy(), **columns}

    # State.

    def state_dict(self) -> dict[str, Any]:
        """All that the rest of the run depends on, loadable with `weights_only=True`.

        A collective call on several ranks.
        """
        choice = self._choice
        return {
            **self._header(),
            "step": self.step,
            "counts": dict(self._counts),
            "history": self.history.state_dict(),
            "choice": None
            if choice is None
            else {
                "index": choice.index.clone(),
                "is_uniform": choice.is_uniform.clone(),
                "columns": None if choice.columns is None else choice.columns.clone(),
            },
            "method": self.method_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned; changes nothing where that is not possible.

        Raises:
            CheckpointError: the state of another run, or a damaged one.
        """
        check_header(state, self._header())
        before = self.state_dict()
        try:
            self._load(state)
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            self._load(before)
            raise CheckpointError(f"the state is damaged: {error}") from error
        self.last_groups = None

    def _load(self, state: Mapping[str, Any]) -> None:
        self.history.load_state_dict(state["history"])
        self._choice = self._loaded_choice(state["choice"])
        self.step = int(state["step"])
        self._counts = {name: int(state["counts"][name]) for name in self._counts}
        self.load_method_state(state["method"])

    def _loaded_choice(self, saved: Mapping[str, Any] | None) -> Choice | None:
        if saved is None:
            return None
        shape = (self.batch,)
        index = require_tensor(saved, "index", shape=shape, dtype=torch.int64)
        doors.check_index(index, self.num_prompts, fewest=self.batch)
        columns = saved["columns"]
        if columns is not None:
            wide = (self.batch, columns.shape[1])
            columns = require_tensor(saved, "columns", shape=wide, dtype=torch.float32)
        is_uniform = require_tensor(saved, "is_uniform", shape=shape, dtype=torch.bool)
        return Choice(index, is_uniform, columns)

    def _header(self) -> dict[str, Any]:
        sizes = ("num_prompts", "generations", "batch", "num_candidates", "num_explored", "seed")
        settings = {name: getattr(self, name) for name in sizes}
        return {"version": STATE_VERSION, "selector": self.name, **settings}

    def _uniform_among(self, index: Tensor, *, everything: bool) -> Tensor:
        """Bool `[M]`: the candidates that no ranking brings; the whole batch if `everything`."""
        among = self._pool.explored(self.step)[index]
        want = self.batch if everything else self.num_explored
        if missing := want - size_of(among):
            seed = derived_seed(self.seed, Purpose.UNIFORM, self.step)
            among = among | draw_mask(len(index), missing, seed, among=~among)
        return among

    def _count(self, groups: Groups) -> None:
        assert self._choice is not None
        self._counts["groups"] += len(groups.success)
        self._counts["informative"] += int(groups.is_informative.sum())
        self._counts["uniform"] += int(self._choice.is_uniform.sum())


def _mean(values: Tensor) -> float:
    known = values[~values.isnan()]
    return float(known.mean()) if len(known) else float("nan")
