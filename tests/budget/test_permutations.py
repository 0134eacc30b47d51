"""Uniform visits: how often each sample came."""

import torch

from data_agent.budget.permutations import PermutationStream
from data_agent.runtime.random import Purpose

AMONG = torch.tensor([True, True, False, True, True, True, True, False])


def test_visits_are_those_of_all_cuts_so_far():
    for among in (None, AMONG):
        stream = PermutationStream(8, 5, Purpose.PERMUTATION, lambda _: 4, among=among)
        visits = torch.zeros(8, dtype=torch.int64)
        for epoch in range(9):  # cuts span passes, and end with them
            visits += stream.cut(epoch)
            assert torch.equal(stream.visits(), visits)
        assert torch.equal(stream.cut(3), stream.cut(3))  # from the beginning again
        again = sum(stream.cut(epoch).long() for epoch in range(4))
        assert torch.equal(stream.visits(), again)
