"""Trainers with a data set of trusted rows: what is picked, trained on, resumed and refused."""

import logging
import warnings
from functools import partial
from typing import Any

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="needs the extra [transformers]")

import datasets  # noqa: E402
from trainers import (  # noqa: E402
    EPOCHS,
    SIZE,
    Ours,
    Texts,
    arguments,
    bert,
    llama,
    replay,
    train,
    weights,
)
from transformers import BertForTokenClassification  # noqa: E402

from data_agent import DataAgent, make_selector  # noqa: E402
from data_agent.errors import DataAgentWarning, InputError  # noqa: E402
from data_agent.trusted import TrustedConfig, append_trusted  # noqa: E402

NUM_TRUSTED = 8
TOTAL = SIZE + NUM_TRUSTED
ROWS = set(range(SIZE, TOTAL))


class Trusted(Texts):
    """Other texts than those to train on."""

    def __init__(self, labels="class", size=NUM_TRUSTED):
        super().__init__(labels, size)
        self.tokens = (self.tokens + 7) % 48
        self.tokens[:, 0] = torch.arange(SIZE, SIZE + size)


def table(rows):
    """The same as a table of `datasets`."""
    columns = ("input_ids", "attention_mask")
    data = [
        {**{c: rows[i][c].tolist() for c in columns}, "labels": rows[i]["labels"]}
        for i in range(len(rows))
    ]
    return datasets.Dataset.from_list(data)


def chosen_epochs(trainer):
    """What was trained on in the epochs in which something was chosen."""
    return [set(order) for order in trainer.order[2:]]  # behind the first pass


@pytest.mark.parametrize("kind", ["rows", "tables"])
def test_trusted_rows_are_picked_for_and_are_in_every_chosen_epoch(kind, tmp_path, caplog):
    data, trusted = Texts(), Trusted()
    if kind == "tables":
        data, trusted = table(data), table(trusted)
    with caplog.at_level(logging.INFO, logger="data_agent"):
        ours = train(bert(), data, arguments(tmp_path), trusted_dataset=trusted)
    picked = "selector='auto' picks data-agent: its reward is learned from 8 trusted rows."
    assert picked in caplog.text
    assert "data-agent: trusted examples (8 rows)" in caplog.text
    assert ours.trusted_rows == range(SIZE, TOTAL)
    assert isinstance(ours.train_dataset, datasets.Dataset) == (kind == "tables")
    assert [len(order) for order in ours.order] == [TOTAL // 2] * EPOCHS
    assert all(epoch >= ROWS for epoch in chosen_epochs(ours))
    assert all(index == tokens for _, index, tokens in ours.batches)
    assert ours.selector.metrics()["trusted_rows"] == 8


def test_at_keep_ratio_one_weights_are_the_trainers_over_the_joined_data(tmp_path):
    args = partial(arguments, tmp_path, num_train_epochs=2)
    ours = train(bert(), Texts(), args(), trusted_dataset=Trusted(), keep_ratio=1.0)
    joined, _ = append_trusted(Texts(), Trusted())
    assert torch.equal(weights(ours), weights(replay(ours, bert(), joined, args())))


def test_resumed_it_ends_the_same(tmp_path):
    args = partial(arguments, tmp_path, save_strategy="steps", save_steps=5, max_steps=22)
    selector = partial(DataAgent, keep_ratio=0.5, config=TrustedConfig(update_every=3))
    whole = train(bert(), Texts(), args(), trusted_dataset=Trusted(), selector=selector)
    assert whole.selector.metrics()["policy_updates"] == 2
    for step in (5, 20):
        resumed = Ours(
            model=bert(),
            args=args(),
            train_dataset=Texts(),
            trusted_dataset=Trusted(),
            selector=selector,
        )
        resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
        assert resumed.batches == whole.batches[step:]
        assert torch.equal(weights(resumed), weights(whole))
        assert resumed.selector.describe() == whole.selector.describe()


@pytest.mark.parametrize(
    ("model", "labels", "words"),
    [
        (bert, "class", "class"),
        (llama, "masked", "avoids"),
        (partial(bert, num_labels=1, problem_type="regression"), "number", "avoids"),
        (partial(bert, problem_type="multi_label_classification"), "several", "avoids"),
        (partial(bert, kind=BertForTokenClassification), "token class", "avoids"),
    ],
    ids=["classes", "tokens", "regression", "several labels", "token classes"],
)
def test_whatever_there_is_to_see_is_learned_from(model, labels, words, tmp_path):
    ours = train(
        model(),
        Texts(labels),
        arguments(tmp_path, num_train_epochs=6),
        trusted_dataset=Trusted(labels),
        selector=partial(DataAgent, keep_ratio=0.7, config=TrustedConfig(update_every=4)),
    )
    metrics = ours.selector.metrics()
    assert metrics["trusted_separation"] > 0.55
    assert 0 <= metrics["trusted_separation_held_back"] <= 1
    assert 0 <= metrics["trusted_calibration"] <= 1
    assert words in ours.selector.summary()


@pytest.mark.parametrize("selector", ["random", "label-aware", partial(DataAgent, keep_ratio=0.6)])
def test_every_way_of_naming_a_selector_is_told_of_them(selector, tmp_path):
    ours = train(bert(), Texts(), arguments(tmp_path), trusted_dataset=Trusted(), selector=selector)
    assert all(epoch >= ROWS for epoch in chosen_epochs(ours))


def test_a_selector_that_was_built_before_must_know_them(tmp_path):
    def run(**options):
        selector = make_selector("random", epochs=EPOCHS, keep_ratio=0.5, **options)
        args = arguments(tmp_path)
        return train(bert(), Texts(), args, trusted_dataset=Trusted(), selector=selector)

    known = run(num_samples=TOTAL, trusted=range(SIZE, TOTAL))
    assert all(epoch >= ROWS for epoch in chosen_epochs(known))
    with pytest.raises(InputError, match=r"at 40 to 47, .* built with no trusted rows"):
        run(num_samples=TOTAL)
    with pytest.raises(InputError, match=r"built with other trusted rows.*range.40, 48."):
        run(num_samples=TOTAL, trusted=range(8))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"selector": partial(DataAgent, trusted=range(4))}, "Leave out one of the two"),
        ({"selector": lambda num_samples, epochs: None}, "unexpected keyword argument 'trusted'"),
        ({"selector": "data-agent-in-batch"}, "chooses inside each batch"),
        ({"trusted_dataset": Trusted(size=16)}, "16 rows are trusted, more than half of an epoch"),
        ({"trusted_dataset": Trusted(size=0)}, "trusted data are empty"),
        ({"trusted_dataset": [(1, 2)]}, "a tuple of 2, one of the training data a mapping of"),
        ({"data": table(Texts()).to_iterable_dataset()}, "training data are a stream"),
        ({"trusted_dataset": table(Trusted()).to_iterable_dataset()}, r"trusted data are a stream"),
        (
            {"trusted_dataset": datasets.DatasetDict({"a": table(Trusted())})},
            "a DatasetDict of 'a'",
        ),
    ],
)
def test_what_cannot_be_trusted_is_refused_before_training(options, says, tmp_path):
    options = {"data": Texts(), "trusted_dataset": Trusted(), **options}
    trained = []

    class Noting(Ours):
        def training_step(self, *args, **kwargs):
            trained.append(args)
            return super().training_step(*args, **kwargs)

    args = arguments(tmp_path, max_steps=8)
    with pytest.raises(InputError, match=says):
        train(bert(), options.pop("data"), args, kind=Noting, **options)
    assert not trained


def test_tables_become_one_table_where_their_columns_mean_the_same(tmp_path):
    def joined(data, trusted) -> Any:
        args = arguments(tmp_path)
        return Ours(
            model=bert(), args=args, train_dataset=data, trusted_dataset=trusted
        ).train_dataset

    data, trusted = table(Texts()), table(Trusted())
    named = partial(datasets.ClassLabel, names=["a", "b", "c"])
    classes = data.cast_column("labels", named())
    assert joined(classes, trusted).features["labels"] == named()
    other = trusted.cast_column("labels", datasets.ClassLabel(names=["b", "a", "c"]))
    with pytest.raises(InputError, match="count the class 'b' as 0, the training data as 1"):
        joined(classes, other)
    with pytest.raises(InputError, match=r"mapping of .*source"):
        joined(data, trusted.add_column("source", ["a"] * NUM_TRUSTED))
    unlike = trusted.remove_columns("labels").add_column("labels", ["x"] * NUM_TRUSTED)
    with pytest.raises(InputError, match="cannot become those of train_dataset"):
        joined(classes, unlike)
    seen = data.with_transform(lambda batch: {**batch, "input_ids": batch["input_ids"]})
    assert not isinstance(joined(seen, trusted), datasets.Dataset)  # which would lose it


def classes(column, *names):
    """Four rows of one class each, or of a list of classes in a table, by their names."""
    kind = datasets.ClassLabel(names=list(names))
    numbers = [kind.str2int(name) for name in ("cat", "dog", "cat", "ewe")]
    rows = {
        "labels": (numbers, kind),
        "tags": ([[number, 0] for number in numbers], datasets.List(kind)),
        "objects": ([{"tags": [{"kind": n}]} for n in numbers], {"tags": [{"kind": kind}]}),
    }
    values, kind = rows[column]
    return datasets.Dataset.from_dict({column: values}, features=datasets.Features({column: kind}))


@pytest.mark.parametrize("column", ["labels", "tags", "objects"])
def test_classes_that_are_counted_differently_are_refused_wherever_they_are(column, tmp_path):
    train, trusted = classes(column, "cat", "dog", "ewe"), classes(column, "ewe", "dog", "cat")
    place = {"labels": "labels", "tags": r"tags\[\]", "objects": r"objects\.tags\[\]\.kind"}
    says = rf"column '{place[column]}' the trusted data count the class 'ewe' as 0, .* as 2"
    for data in (train, train.with_format("torch"), train.add_column("id", range(4))):
        with pytest.raises(InputError, match=says) as refused:
            Ours(
                model=bert(), args=arguments(tmp_path), train_dataset=data, trusted_dataset=trusted
            )
        with pytest.raises(InputError, match=says):
            append_trusted(data, trusted)
    assert f"cast_column('{column}', train.features['{column}'])" in str(refused.value)
    append_trusted(train, trusted.cast_column(column, train.features[column]))


def test_classes_are_counted_alike_as_the_messages_say():
    train, trusted = classes("labels", "cat", "dog", "ewe"), classes("labels", "ewe", "dog", "cat")
    names = train.features["labels"].names
    trusted = trusted.align_labels_with_mapping({n: i for i, n in enumerate(names)}, "labels")
    joined, rows = append_trusted(train, trusted)
    assert [joined[i]["labels"] for i in rows] == [0, 1, 0, 2]
    train, trusted = classes("tags", "cat", "dog", "ewe"), classes("tags", "ewe", "dog", "cat")
    old, new = (data.features["tags"].feature for data in (trusted, train))
    trusted = trusted.map(
        lambda row: {"tags": new.str2int(old.int2str(row["tags"]))}, features=train.features
    )
    joined, rows = append_trusted(train, trusted)
    assert [joined[i]["tags"] for i in rows] == [[0, 2], [1, 2], [0, 2], [2, 2]]


def test_classes_that_the_training_data_do_not_have_are_refused():
    train, trusted = (
        classes("labels", "cat", "dog", "ewe"),
        classes("labels", "cat", "dog", "ewe", "fox"),
    )
    says = r"count the class 'fox' as 3, the training data have no such class.*leave out rows"
    with pytest.raises(InputError, match=says):
        append_trusted(train, trusted)
    append_trusted(trusted, train)  # of which all numbers mean the same


class Counting(Texts):
    """Is told of epochs, as data are that draw others in each."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.epochs = []

    def set_epoch(self, epoch):
        self.epochs.append(epoch)


def test_epochs_are_told_to_the_training_data_behind_which_trusted_rows_are(tmp_path):
    alone, joined = Counting(), Counting()
    train(bert(), alone, arguments(tmp_path))
    train(bert(), joined, arguments(tmp_path), trusted_dataset=Trusted())
    assert joined.epochs == alone.epochs != []


def test_rows_of_a_stream_are_trusted_as_the_message_says(tmp_path):
    stream = table(Trusted()).to_iterable_dataset()
    ours = train(bert(), table(Texts()), arguments(tmp_path), trusted_dataset=list(stream))
    assert all(epoch >= ROWS for epoch in chosen_epochs(ours))


def test_rows_of_the_evaluation_are_warned_of(tmp_path):
    args = partial(arguments, tmp_path, max_steps=18)
    says = r"8 of 8 trusted rows .*\(8 of 8 rows"
    with pytest.warns(DataAgentWarning, match=says):
        train(
            *(bert(), Texts(), args()),
            trusted_dataset=Trusted(),
            eval_dataset={"first": Texts(), "second": Trusted()},
        )
    joined, rows = append_trusted(Texts(), Trusted())
    selector = partial(DataAgent, keep_ratio=0.5, trusted=rows)
    with pytest.warns(DataAgentWarning, match=says):
        train(bert(), joined, args(), selector=selector, eval_dataset=Trusted())
    with warnings.catch_warnings():
        warnings.simplefilter("error", DataAgentWarning)
        train(bert(), Texts(), args(), trusted_dataset=Trusted(), eval_dataset=Texts())


def test_other_training_data_behind_which_no_trusted_rows_are_is_refused(tmp_path):
    options = {"args": arguments(tmp_path), "trusted_dataset": Trusted()}
    trainer = Ours(model=bert(), train_dataset=Texts(), **options)
    trainer.train_dataset = Texts(size=TOTAL)
    with pytest.raises(InputError, match=r"at 40 to 47, but its train_dataset was replaced since"):
        trainer.train()
