"""D2 pruning: difficult samples from diverse places, by messages on a graph of neighbours.

Maharana et al. 2024, "D2 Pruning: Message Passing for Balancing Diversity and Difficulty in Data
Pruning", https://arxiv.org/abs/2310.07931, section 3, and its code,
https://github.com/adymaharana/d2pruning (core/data/sampling.py, graph mode "sum", sampling mode
"weighted"). Samples are nodes of an undirected graph that joins each to its k nearest in feature
space. Forward messages add the neighbours' difficulty to a sample's own: hard regions come first.
Then the highest is taken, again and again, and its reverse message lowers its neighbours: the next
one lies elsewhere.

Departures. Distances are divided by the mean edge: those of different models differ by orders of
magnitude, and the exponentials would all be zero or all one (the code takes them raw). The code
first drops a share of the hardest samples (against wrong labels) and splits the rest by class and
by strata of difficulty, each with its own share of K; that is left out, so the order does not
depend on K. The paper tunes k and gamma_r for each budget; here they are those of the code's
README. It scores in a full training, here a fifth of the run's epochs.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from data_agent.baselines.forgetting import forgetting_events
from data_agent.baselines.static import Static, scores_of_order, train_and_note
from data_agent.budget.schedule import SelectionSchedule
from data_agent.errors import InputError
from data_agent.selecting.proxy import Proxy

_NUM_NEIGHBOURS = 5
_ROWS = 1024  # of the distance matrix at a time


class D2Pruning(Static):
    """Keeps the beginning of `message_order`: `scores=scores_of_order(order, N)`."""

    name = "d2-pruning"

    @classmethod
    def prepare(cls, proxy: Proxy, budget: SelectionSchedule) -> dict[str, Tensor]:
        """The order among one network's features, difficulty being its forgetting counts."""
        network, correct = train_and_note(proxy, budget)
        _, features = network.look()
        size = len(features)
        graph = nearest_neighbours(features, min(_NUM_NEIGHBOURS, size - 1))
        difficulty = forgetting_events(correct, never_learned=len(correct))
        order = message_order(forward_messages(difficulty, graph), graph, budget.num_kept)
        return {"scores": scores_of_order(order, size)}


class NeighbourGraph(NamedTuple):
    """An undirected graph of N samples; each edge stands in it twice, once from either end."""

    start: Tensor  # int64 [N + 1]: the edges of sample i are start[i] to start[i + 1]
    neighbour: Tensor  # int64 [M]: where they lead
    distance: Tensor  # float [M]: how far, 0 or more


def nearest_neighbours(features: Tensor, num_neighbours: int) -> NeighbourGraph:
    """Join each row of `[N, D]` to its k nearest ones; distances are divided by their mean.

    Raises:
        InputError: k is not in [1, N).
    """
    size = len(features)
    if not 1 <= num_neighbours < size:
        raise InputError(f"num_neighbours is {num_neighbours}; expected 1 to {size - 1} (N - 1).")
    nearest: list[Tensor] = []
    for rows in torch.arange(size, device=features.device).split(_ROWS):
        distance = torch.cdist(features[rows], features)
        distance[rows - rows[0], rows] = torch.inf  # no sample is its own neighbour
        nearest.append(distance.topk(num_neighbours, largest=False).indices)
    here = torch.arange(size).repeat_interleave(num_neighbours)
    there = torch.cat(nearest).flatten().cpu()
    code = torch.cat([here * size + there, there * size + here]).unique()  # by start, then end
    here, there = code // size, code % size
    on_cpu = features.cpu().float()
    parts = zip(here.split(1 << 16), there.split(1 << 16), strict=True)
    distance = torch.cat([(on_cpu[h] - on_cpu[t]).norm(dim=1) for h, t in parts])
    degree = torch.bincount(here, minlength=size)
    start = torch.cat([torch.zeros(1, dtype=torch.int64), degree.cumsum(0)])
    return NeighbourGraph(start, there, distance / distance.mean().clamp_min(1e-12))


def forward_messages(difficulty: Tensor, graph: NeighbourGraph, gamma: float = 1.0) -> Tensor:
    """s_i + sum_j exp(-gamma d_ij) s_j over the neighbours j of i, float64 `[N]`.

    Difficulty s is float `[N]`, finite; a message fades the faster, the higher gamma, 0 or more.
    """
    score = difficulty.double()
    message = (-gamma * graph.distance).exp() * score[graph.neighbour]
    receiver = torch.arange(len(score)).repeat_interleave(graph.start.diff())
    return score.index_add(0, receiver, message)


def message_order(scores: Tensor, graph: NeighbourGraph, count: int, gamma: float = 0.1) -> Tensor:
    """The samples taken, in order: int64 `[count]`; of equal scores the first.

    A sample that is taken subtracts `exp(-gamma d_ij) s_i` from its neighbours; s is float `[N]`.
    """
    left = scores.double().numpy().copy()
    fading = (-gamma * graph.distance).exp().double().numpy()
    start, neighbour = graph.start.numpy(), graph.neighbour.numpy()
    order = torch.empty(count, dtype=torch.int64)
    for position in range(count):
        taken = int(left.argmax())
        edges = slice(start[taken], start[taken + 1])
        left[neighbour[edges]] -= fading[edges] * left[taken]
        left[taken] = -torch.inf
        order[position] = taken
    return order
