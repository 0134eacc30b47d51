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
    assert whole.selector.metrics()["policy_updates"] >= 2
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
    assert "trusted_separation_held_back" not in metrics  # of one row, visited six times
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
        ({"data": table(Texts()).to_iterable_dataset()}, "train_dataset is IterableDataset"),
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
    with pytest.raises(InputError, match=r"counts the classes \['b', 'a', 'c'\], .*cast_column"):
        joined(classes, other)
    with pytest.raises(InputError, match=r"mapping of .*source"):
        joined(data, trusted.add_column("source", ["a"] * NUM_TRUSTED))
    unlike = trusted.remove_columns("labels").add_column("labels", ["x"] * NUM_TRUSTED)
    with pytest.raises(InputError, match="cannot become those of train_dataset"):
        joined(classes, unlike)
    seen = data.with_transform(lambda batch: {**batch, "input_ids": batch["input_ids"]})
    assert not isinstance(joined(seen, trusted), datasets.Dataset)  # which would lose it


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
