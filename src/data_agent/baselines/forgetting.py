"""Forgetting: keep the samples that were learned and unlearned most often.

Toneva et al. 2019, "An Empirical Study of Example Forgetting during Deep Neural Network Learning",
https://arxiv.org/abs/1812.05159, section 3 and algorithm 1: a forgetting event is a sample that
was classified right at one visit and wrong at the next. Samples with the fewest events are removed;
one that was never right counts as forgotten infinitely often, so it stays.

Departures. The paper counts over a full training, here it is a fifth of the run's epochs. Many
samples are never forgotten: among equal counts the subset is random. On noisy labels the samples
that were never right are mostly the noise.
"""

from __future__ import annotations

import torch
from torch import Tensor

from data_agent.baselines.static import Static, train_and_note
from data_agent.budget.schedule import SelectionSchedule
from data_agent.selecting.proxy import Proxy


class Forgetting(Static):
    """Keeps the highest counts of `forgetting_events`."""

    name = "forgetting"

    @classmethod
    def prepare(cls, proxy: Proxy, budget: SelectionSchedule) -> dict[str, Tensor]:
        """Counts over one short training."""
        return {"scores": forgetting_events(train_and_note(proxy, budget)[1])}


def forgetting_events(correct: Tensor, *, never_learned: float = torch.inf) -> Tensor:
    """How often each sample went from right to wrong, float32 `[N]`.

    Of bool `[T, N]`: right or wrong at visits 1 to T; never right counts as `never_learned`.
    """
    events = (correct[:-1] & ~correct[1:]).sum(0).float()
    return events.masked_fill(~correct.any(0), never_learned)
