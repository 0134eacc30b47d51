"""A data set of trusted rows behind the training data: positions, reading, what is refused."""

import random
import warnings

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from data_agent import DataAgent, selection_loader
from data_agent.errors import DataAgentWarning, InputError
from data_agent.trusted import append_trusted, warn_of_overlap
from data_agent.trusted import overlap as overlap_module
from data_agent.trusted.overlap import MOST_COMPARED, digest, overlap


def pairs(size, seed=0, shift=0):
    draws = torch.Generator().manual_seed(seed)
    return TensorDataset(torch.randn(size, 3, generator=draws), torch.arange(size) + shift)


class Table(Dataset):
    """Reads many rows at a time, as tables of `datasets` do."""

    def __init__(self, start, size):
        self.start, self.size, self.asked = start, size, []

    def __len__(self):
        return self.size

    def __getitem__(self, i):
        random.random()
        np.random.rand()  # noqa: NPY002 - as augmentation does
        torch.rand(())
        return {"x": self.start + i, "labels": 0}

    def __getitems__(self, indices):
        self.asked.append(indices)
        return [self[i] for i in indices]


def test_rows_come_last_and_the_agent_has_them_in_every_chosen_epoch():
    train_set, rows = append_trusted(pairs(200), pairs(20, seed=1, shift=200))
    assert (len(train_set), list(rows)) == (220, list(range(200, 220)))
    agent = DataAgent(num_samples=len(train_set), epochs=4, trusted=rows)
    loader = selection_loader(train_set, agent, batch_size=22)
    for epoch in agent.epochs():
        seen = []
        for x, y, index in loader:
            assert torch.equal(index, y)  # of which each is its own position
            losses = (x.sum(1) * torch.ones((), requires_grad=True)).square()
            agent.learn(losses, index)
            seen += index.tolist()
        assert len(set(seen)) == 110
        assert epoch < 2 or set(rows) <= set(seen)


def test_many_rows_are_read_at_a_time_in_the_order_that_was_asked_for():
    first, second = Table(0, 10), Table(100, 4)
    joined, rows = append_trusted(first, second)
    samples = joined.__getitems__([11, 3, 10, 0])
    assert [sample["x"] for sample in samples] == [101, 3, 100, 0]
    assert (first.asked[-1], second.asked[-1]) == ([3, 0], [1, 0])
    assert list(rows) == [10, 11, 12, 13]
    assert joined[13]["x"] == 103


def test_looking_at_rows_draws_nothing_that_a_run_would_notice():
    def states():
        numpy = np.random.get_state()[1]  # noqa: NPY002
        return random.getstate(), numpy.tolist(), torch.get_rng_state().tolist()

    before = states()
    with pytest.warns(DataAgentWarning):
        append_trusted(Table(0, 10), Table(100, 4), evaluation=Table(102, 9))
    assert states() == before


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(3))


@pytest.mark.parametrize(
    ("train", "trusted", "says"),
    [
        (pairs(9), Stream(), "Stream is not a map-style dataset"),
        (pairs(9), TensorDataset(torch.zeros(0, 3), torch.zeros(0)), "trusted data are empty"),
        (pairs(9), Table(0, 4), "mapping of labels, x, one of the training data a tuple of 2"),
        (Table(0, 4), TensorDataset(torch.zeros(4)), "tuple of 1, one of .* mapping of labels, x"),
    ],
)
def test_rows_that_cannot_be_appended_are_refused(train, trusted, says):
    with pytest.raises(InputError, match=says):
        append_trusted(train, trusted)


def test_rows_of_the_evaluation_are_warned_of_with_the_numbers_whatever_their_labels():
    evaluation = pairs(50)
    images, _ = evaluation.tensors
    own, _ = pairs(10, seed=7).tensors
    trusted = TensorDataset(torch.cat([images[5:8], own]), torch.full((13,), 99))
    with pytest.warns(DataAgentWarning, match=r"3 of 13 trusted rows .*\(50 of 50 rows were"):
        append_trusted(pairs(30, seed=3), trusted, evaluation=evaluation)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        append_trusted(pairs(30, seed=3), pairs(10, seed=7), evaluation=evaluation)


def test_rows_in_other_forms_are_found_by_the_fields_that_both_have():
    trusted = [{"ids": [1, 2, 3], "labels": 0, "source": "a"}, {"ids": [4], "labels": 0}]
    evaluation = [{"ids": np.array([1, 2, 3]), "labels": 5}, {"ids": torch.tensor([9])}]
    assert overlap(trusted, evaluation)[:2] == (1, 2)


def test_of_very_many_evaluation_rows_some_are_looked_at():
    evaluation = [(i // 3, 0) for i in range(3 * MOST_COMPARED)]
    found = overlap([(i, 0) for i in range(300)], evaluation)
    assert found[1:] == (300, MOST_COMPARED, 3 * MOST_COMPARED)
    assert 150 < found[0] < 270  # each is there three times, and a third is looked at


def test_fields_that_do_not_tell_rows_apart_are_no_overlap():
    trusted = [{"ids": [i], "source": "a", "labels": 1} for i in range(4)]
    assert overlap(trusted, [{"text": f"row {i}", "source": "a"} for i in range(9)])[0] == 0
    assert overlap(trusted, [{"text": f"row {i}"} for i in range(9)])[0] == 0
    assert overlap(trusted, [{"text": "a"}])[0] == 0


def test_looking_at_evaluation_rows_takes_no_longer_than_it_may(monkeypatch):
    monkeypatch.setattr(overlap_module, "MOST_SECONDS", -1.0)
    assert overlap([(7, 0), (8, 0)], [(7, 0)] * 9) == (1, 2, 1, 9)


def test_an_evaluation_without_rows_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_overlap(pairs(4), [])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (torch.tensor([1.0]), torch.tensor([2.0])),
        (torch.zeros(2, 3), torch.zeros(3, 2)),
        (torch.tensor([1, 2], dtype=torch.bfloat16), torch.tensor([1, 3], dtype=torch.bfloat16)),
        ("ab", "ac"),
        (["ab", "c"], ["a", "bc"]),
        ({"a": 1}, {"b": 1}),
        ([[1, 2], [3]], [[1], [2, 3]]),
        (None, False),
    ],
)
def test_contents_that_differ_have_other_digests(one, other):
    assert digest(one) == digest(one)
    assert digest(one) != digest(other)
