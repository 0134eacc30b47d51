"""Which prompts are looked at for each batch, and which of them come in any case."""

from __future__ import annotations

from torch import Tensor

from data_agent.budget.permutations import PermutationStream
from data_agent.runtime.masks import places_of, size_of
from data_agent.runtime.random import Purpose, derived_seed
from data_agent.runtime.topk import draw_mask


class Pool:
    """Two streams of permutations: candidates, and prompts that are chosen without a look.

    A pure function of its arguments and the step; what it gave last is only kept for speed.

    Args:
        num_prompts: N.
        num_candidates: M, in [1, N].
        num_explored: of these so many are chosen in any case, in [0, M].
        seed: of the permutations.
    """

    def __init__(
        self, num_prompts: int, *, num_candidates: int, num_explored: int, seed: int
    ) -> None:
        self._num_candidates = num_candidates
        self._num_explored = num_explored
        self._seed = seed
        self._looked_at = PermutationStream(
            num_prompts, seed, Purpose.PERMUTATION, lambda _: num_candidates
        )
        self._explored = PermutationStream(
            num_prompts, seed, Purpose.EXPLORE, lambda _: num_explored
        )
        self._drawn: tuple[int, Tensor, Tensor] | None = None

    def candidates(self, step: int) -> Tensor:
        """int64 `[M]`, ascending and distinct: the prompts that `step` may choose from."""
        return self._at(step)[1].clone()

    def explored(self, step: int) -> Tensor:
        """Bool `[N]`: the prompts that `step` chooses in any case."""
        return self._at(step)[0]

    def _at(self, step: int) -> tuple[Tensor, Tensor]:
        if self._drawn is None or self._drawn[0] != step:
            explored = self._explored.cut(step)
            others = self._looked_at.cut(step) & ~explored
            count = self._num_candidates - self._num_explored
            if size_of(others) > count:  # few are in both streams
                seed = derived_seed(self._seed, Purpose.SUBSET, step)
                others = draw_mask(len(others), count, seed, among=others)
            self._drawn = (step, explored, places_of(explored | others))
        return self._drawn[1], self._drawn[2]
