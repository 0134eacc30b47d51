"""The controls that trusted rows are measured against keep the laws and choose what they say."""

from functools import partial

import torch
from benchmarks.controls import NearestTrusted, Oracle

from data_agent import Feedback
from data_agent.testing import check_selector


def oracle(num_samples, **base):
    return Oracle(
        num_samples=num_samples, scores=(torch.arange(num_samples) % 3 > 0).float(), **base
    )


def test_the_oracle_keeps_the_laws_and_draws_true_labels_alone():
    check_selector(oracle)
    selector = oracle(30, epochs=8, keep_ratio=0.5, seed=0)
    drawn = []
    for epoch in selector.epochs():
        index = selector.select(epoch).index
        selector.observe(Feedback(index, torch.ones(len(index))))
        drawn.append(index)
    assert all((index % 3 > 0).all() for index in drawn[3:])  # 15 of the 20 behind the warm-up
    assert not torch.equal(drawn[-1], drawn[-2])


def test_the_nearest_to_trusted_rows_are_chosen():
    check_selector(partial(NearestTrusted, trusted=torch.arange(4)))
    selector = NearestTrusted(
        num_samples=60, epochs=8, keep_ratio=0.5, seed=0, trusted=torch.arange(4)
    )
    is_like = torch.arange(60) % 2 == 0
    is_like[:4] = True
    features = torch.where(is_like[:, None], torch.tensor([1.0, 0.1]), torch.tensor([0.1, 1.0]))
    for epoch in selector.epochs():
        index = selector.select(epoch).index
        selector.observe(Feedback(index, torch.ones(len(index)), features=features[index]))
    assert is_like[index].float().mean() > 0.8  # of a half
