"""A data set of trusted rows behind the training data: positions, reading, what is refused."""

import copy
import pickle
import random
import re
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from data_agent import DataAgent, selection_loader
from data_agent.errors import DataAgentWarning, InputError
from data_agent.trusted import append_trusted, warn_of_overlap
from data_agent.trusted import overlap as overlap_module
from data_agent.trusted.overlap import MOST_COMPARED, digest, overlap


def pairs(size, seed=0, shift=0) -> Any:
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
        (pairs(9), Stream(), r"trusted data are a stream \(Stream\), .* list first: list\(data\)"),
        (Stream(), pairs(9), r"training data are a stream \(Stream\), .* list first: list\(data\)"),
        (pairs(9), iter(pairs(9)), r"trusted data are a stream \(.*iterator\)"),
        (pairs(9), None, r"trusted data are None; expected a map-style dataset"),
        (pairs(9), object(), r"trusted data are a object; expected a map-style dataset"),
        (pairs(9), {"train": pairs(9)}, r"trusted data are a dict of 'train'; hand one of these"),
        (pairs(9), DataLoader(pairs(9)), r"trusted data are a DataLoader, .* loader.dataset"),
        ([pairs(9), pairs(9)], pairs(9), r"training data are a list of datasets.*ConcatDataset"),
        (pairs(9), TensorDataset(torch.zeros(0, 3), torch.zeros(0)), "trusted data are empty"),
        (pairs(9), Table(0, 4), "mapping of labels, x, one of the training data a tuple of 2"),
        (Table(0, 4), TensorDataset(torch.zeros(4)), "tuple of 1, one of .* mapping of labels, x"),
    ],
)
def test_rows_that_cannot_be_appended_are_refused(train, trusted, says):
    with pytest.raises(InputError, match=says):
        append_trusted(train, trusted)


def test_rows_of_a_stream_are_appended_as_the_message_says():
    train_set, rows = append_trusted(list(range(9)), list(Stream()))
    assert [train_set[i] for i in rows] == [0, 1, 2]


class Classes(Dataset):
    """As folders of torchvision: classes are numbered by their names."""

    def __init__(self, *names, target_transform=None):
        self.classes = sorted(names)
        self.class_to_idx = {name: i for i, name in enumerate(self.classes)}
        self.target_transform = target_transform

    def __len__(self):
        return len(self.classes)

    def __getitem__(self, i):
        number = i if self.target_transform is None else self.target_transform(i)
        return torch.zeros(3), number


def test_classes_of_folders_must_have_the_same_numbers():
    train, trusted = Classes("cat", "dog", "horse"), Classes("dog", "horse")
    says = r"count the class 'dog' as 0, the training data as 1: labels would be permuted"
    for data in (train, Subset(train, [0, 1]), append_trusted(train, train)[0]):
        with pytest.raises(InputError, match=says):
            append_trusted(data, trusted)
    trusted.target_transform = [train.class_to_idx[name] for name in trusted.classes].__getitem__
    joined, rows = append_trusted(train, trusted)
    assert [joined[i][1] for i in rows] == [1, 2]
    append_trusted(train, Classes("cat", "dog"))  # of which the numbers are the same
    with pytest.raises(
        InputError, match=r"'mule' as 2, the training data have no such .* leave out"
    ):
        append_trusted(train, Classes("cat", "dog", "mule"))


def test_lists_of_classes_must_have_the_same_order():
    train, trusted = pairs(9), pairs(4)
    train.classes, trusted.classes = ["a", "b"], ("b", "a")
    with pytest.raises(InputError, match="count the class 'b' as 0, the training data as 1"):
        append_trusted(train, trusted)


def reloaded(data):
    return pickle.loads(pickle.dumps(data))


class Stage(Table):
    def __init__(self, start, size, transform="first"):
        super().__init__(start, size)
        self.transform, self.epochs = transform, []

    def set_epoch(self, epoch):
        self.epochs.append(epoch)

    def read_all(self):
        return [self[i] for i in range(len(self))]


@pytest.mark.parametrize("copied", [lambda data: data, copy.deepcopy, copy.copy, reloaded])
def test_what_is_asked_of_the_training_data_reaches_it_behind_trusted_rows(copied):
    joined = copied(append_trusted(Stage(0, 9), Stage(9, 3))[0])
    data, trusted = joined.datasets
    joined.set_epoch(4)
    assert data.epochs == trusted.epochs == [4]
    assert joined.start == 0
    joined.transform = "second"
    assert (joined.transform, data.transform, trusted.transform) == ("second",) * 3
    joined.stage = 2
    assert data.stage == 2
    assert not hasattr(trusted, "stage")
    with pytest.raises(AttributeError, match="no attribute 'other'"):
        _ = joined.other
    with pytest.raises(
        AttributeError, match=r"read_all\(\) of the .* Call it before append_trusted"
    ):
        joined.read_all()
    assert len(joined) == 12


def test_epochs_are_told_to_whichever_part_counts_them():
    counting = Stage(0, 9)
    for train, trusted in ((counting, Table(9, 3)), (Table(9, 3), counting)):
        append_trusted(train, trusted)[0].set_epoch(7)
    assert counting.epochs == [7, 7]
    assert not hasattr(append_trusted(Table(0, 9), Table(9, 3))[0], "set_epoch")


def test_what_a_loader_sets_and_reads_reaches_the_training_data():
    joined, rows = append_trusted(Stage(0, 40), Stage(40, 4))
    agent = DataAgent(num_samples=44, epochs=4, trusted=rows)
    data: Any = selection_loader(joined, agent, batch_size=8).dataset
    data.transform = "second"
    assert [part.transform for part in joined.datasets] == ["second"] * 2
    assert data.start == 0


def test_positions_from_the_end_are_read_one_by_one_or_many_at_a_time():
    joined, _ = append_trusted([("a", 0), ("b", 1)], [("t", 2)])
    assert joined.__getitems__([-1, 0, -3, 2]) == [joined[i] for i in (-1, 0, -3, 2)]
    for i in (3, -4):
        with pytest.raises(IndexError, match="no sample"):
            joined.__getitems__([0, i])


@pytest.mark.parametrize(
    ("train", "trusted", "says"),
    [
        (torch.tensor(1), 1, "an int, of the training data a tensor of int64 and shape []"),
        (1, torch.tensor(1), "a tensor of int64 and shape [], of the training data an int"),
        (
            torch.zeros(2),
            np.zeros(2, np.float32),
            "an array of float32 and shape [2], of the train",
        ),
        (torch.zeros(2), torch.zeros(2).double(), "of float64 and shape [2], of the training data"),
        (torch.tensor(1), torch.tensor([0, 1]), "of int64 and shape [2], of the training data a"),
        (torch.zeros(2), torch.zeros(3), "of float32 and shape [3], of the training data a tensor"),
        (1, 0.5, "a float, of the training data an int"),
        (1, "one", "a text, of the training data an int"),
        (torch.zeros(3, 4, 4), Image.new("L", (4, 4)), "a Image, of the training data a tensor"),
    ],
)
def test_samples_that_would_break_a_batch_are_refused_with_the_numbers(train, trusted, says):
    for wrap, place in (
        (lambda value: value, ""),
        (lambda value: ("text", value), "element 1 of "),
        (lambda value: {"x": value, "y": 0}, "'x' of "),
        (lambda value: ("text", {"x": value}), "'x' of element 1 of "),
    ):
        whole = re.escape(f"{place}a sample of the trusted data is ") + f".*{re.escape(says)}"
        with pytest.raises(InputError, match=f"^{whole}.*: a batch of both would fail"):
            append_trusted([wrap(train)] * 20, [wrap(trusted)])


@pytest.mark.parametrize(
    ("train", "trusted"),
    [
        ("a text", "another"),
        ([1, 2, 3], []),  # token ids, which collators pad
        ([1, 2, 3], [1]),
        (torch.tensor([1, 2, 3]), torch.tensor([1])),
        (torch.zeros(3, 4, 4), torch.zeros(3, 8, 8)),  # images, which collators resize
        (Image.new("L", (4, 4)), Image.new("RGB", (8, 8))),
        (0.5, 1),
        (0.5, np.float32(0.5)),
        (1, np.int32(1)),
        ("a", np.str_("a")),
        (None, 1),
        (1, None),
        ({"a": 1}, {"a": 1, "b": 2}),
        ((1, 2), [1, 2]),
    ],
)
def test_samples_that_collators_put_into_one_batch_are_appended(train, trusted):
    for wrap in (lambda value: ("text", value), lambda value: {"x": value}):
        append_trusted([wrap(train)] * 20, [wrap(trusted)])


def test_a_list_in_the_place_of_a_tensor_is_refused():
    says = "'x' of a sample of the trusted data is a list, of the training data a tensor of int64"
    with pytest.raises(InputError, match=says):
        append_trusted([{"x": torch.tensor([1, 2])}], [{"x": [1, 2]}])


def test_widths_may_differ_where_those_of_the_training_data_do():
    train = [(torch.zeros(5 if i == 12 else 4), 0) for i in range(16)]
    append_trusted(train, [(torch.zeros(3), 0)])  # sounds, which a collator pads


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
    assert found[1:] == (300, MOST_COMPARED, 3 * MOST_COMPARED, 300)
    assert 150 < found[0] < 270  # each is there three times, and a third is looked at


def test_fields_that_do_not_tell_rows_apart_are_no_overlap():
    trusted = [{"ids": [i], "source": "a", "labels": 1} for i in range(4)]
    assert overlap(trusted, [{"text": f"row {i}", "source": "a"} for i in range(9)])[0] == 0
    assert overlap(trusted, [{"text": f"row {i}"} for i in range(9)])[0] == 0
    assert overlap(trusted, [{"text": "a"}])[0] == 0


class Slow(Dataset):
    """Each of its rows takes a second of a clock that stands still otherwise."""

    clock = 0.0

    def __init__(self, size, shift=0):
        self.size, self.shift = size, shift

    def __len__(self):
        return self.size

    def __getitem__(self, i):
        Slow.clock += 1
        return i + self.shift, 0


def test_looking_at_rows_takes_no_longer_than_it_may(monkeypatch, caplog):
    monkeypatch.setattr(overlap_module.time, "monotonic", lambda: Slow.clock)
    begin = Slow.clock
    found = overlap(Slow(700), Slow(700, shift=700))
    assert Slow.clock - begin <= 14  # ten, the row at hand of each, and the two that come first
    assert found == (0, 700, 5, 700, 6)
    fast = [(i, 0) for i in range(700)]
    assert overlap(fast, Slow(700)) == (11, 700, 11, 700, 700)
    assert overlap(Slow(700), fast) == (6, 700, 700, 700, 6)
    with caplog.at_level("WARNING", "data_agent"):
        append_trusted(fast, Slow(700), evaluation={"a": fast[:1], "b": Slow(700, shift=700)})
    assert caplog.messages == [
        "no trusted row was found in the evaluation data: 3 of 700 trusted rows and 1 of 1 "
        "evaluation rows were looked at, then time ran out.",
        "no trusted row was found in the evaluation data: 3 of 700 trusted rows and 3 of 700 "
        "evaluation rows were looked at, then time ran out.",
    ]
    with pytest.warns(
        DataAgentWarning, match=r"6 of 700 trusted .*\(6 of 700 trusted rows and 700"
    ):
        warn_of_overlap(Slow(700), fast)


def test_what_is_evaluated_on_may_be_several_sets_by_name():
    with pytest.warns(DataAgentWarning, match="4 of 4 trusted rows are among") as caught:
        append_trusted(
            pairs(9, seed=2), pairs(4), evaluation={"a": pairs(9, seed=1), "b": pairs(4)}
        )
    assert len(caught) == 1


@pytest.mark.parametrize(
    ("evaluation", "says"),
    [
        (DataLoader(pairs(9)), "evaluation data are a DataLoader, .* over: loader.dataset"),
        (Stream(), r"evaluation data are a stream \(Stream\), .* list first: list\(data\)"),
        ({"test": Stream()}, r"evaluation data are a stream \(Stream\)"),
        ([pairs(9)], "evaluation data are a list of datasets. Join them: torch.utils.data.Concat"),
    ],
)
def test_what_cannot_be_compared_is_refused(evaluation, says):
    with pytest.raises(InputError, match=says):
        append_trusted(pairs(9), pairs(4), evaluation=evaluation)


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
