"""What a Trainer picks by itself, from what it knows when a run begins, and that it says so."""

import logging
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

transformers = pytest.importorskip("transformers", reason="needs the extra [transformers]")

import datasets  # noqa: E402
from trainers import SIZE, Ours, Texts, arguments, bert, llama, train, weights  # noqa: E402
from transformers import BertForTokenClassification  # noqa: E402

from data_agent.integrations._auto import pick_method  # noqa: E402
from data_agent.losses import SampleLosses, class_losses  # noqa: E402


class Drawing(Texts):
    """Draws from every generator there is, as augmentation does."""

    def __getitem__(self, i):
        random.random()
        np.random.rand()  # noqa: NPY002
        torch.rand(())
        return super().__getitem__(i)


class OwnLosses(Ours):
    """Computes the samples' losses by itself."""

    def compute_sample_losses(self, inputs, outputs) -> SampleLosses:
        return class_losses(outputs["logits"], inputs["labels"])


@pytest.mark.parametrize(
    ("model", "labels", "options", "picked"),
    [
        (bert, "class", {}, "label-aware: every row has one class label"),
        (
            lambda: bert(num_labels=12),
            *("class", {}, "noise-aware: every row has one label of 12 classes"),
        ),
        (llama, "masked", {}, "data-agent: the model's labels are tokens"),
        (
            lambda: bert(BertForTokenClassification),
            *("token class", {}, "data-agent: its rows do not have one class label"),
        ),
        (
            lambda: bert(problem_type="multi_label_classification"),
            *("several", {}, "data-agent: the model's problem_type is multi_label_classification"),
        ),
        (
            lambda: bert(num_labels=1, problem_type="regression"),
            *("number", {}, "data-agent: the model's problem_type is regression"),
        ),
        (bert, "class", {"kind": OwnLosses}, "data-agent: the losses of samples are computed by"),
    ],
    ids=[
        "classes",
        "many classes",
        "tokens",
        "classes of tokens",
        "several labels",
        "regression",
        "own losses",
    ],
)
def test_what_is_picked_and_said(model, labels, options, picked, tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="data_agent"):
        ours = train(model(), Texts(labels), arguments(tmp_path), **options)
    assert f"selector='auto' picks {picked}" in caplog.text
    assert ours.selector.name == picked.partition(":")[0]
    is_policy = ours.selector.name == "data-agent"
    assert ("policy, rewarded by difficulty and uncertainty" in caplog.text) == is_policy


def test_an_explicit_name_wins_and_is_another_algorithm(tmp_path):
    runs = {
        name: train(bert(), Texts(), arguments(tmp_path), selector=name)
        for name in ("auto", "label-aware", "data-agent")
    }
    assert torch.equal(weights(runs["auto"]), weights(runs["label-aware"]))
    assert runs["data-agent"].selector.name == "data-agent"
    assert runs["data-agent"].selector.metrics()["policy_updates"] >= 0
    assert "policy_updates" not in runs["auto"].selector.metrics()
    assert "doubtful labels: off, 3 classes; no policy" in runs["auto"].selector.summary()


def test_without_a_head_no_method_is_picked_that_needs_features():
    model = SimpleNamespace(config=transformers.BertConfig(num_labels=12))
    picked = pick_method(Texts(), model, reads_labels=True, has_head=False)
    assert picked == ("label-aware", "every row has one class label")


def test_a_dataset_with_columns_is_known_by_them_and_no_row_is_read():
    rows = {"text": ["a"] * 4, "label": [0, 1, 0, 1]}
    model = SimpleNamespace(config=transformers.BertConfig(num_labels=2))
    for features, picked in (
        ({"text": datasets.Value("string"), "label": datasets.Value("int64")}, "label-aware"),
        ({"text": datasets.Value("string"), "label": datasets.ClassLabel(2)}, "label-aware"),
        ({"text": datasets.Value("string"), "label": datasets.Value("float32")}, "data-agent"),
    ):
        table = datasets.Dataset.from_dict(rows, features=datasets.Features(features))
        assert pick_method(table, model, reads_labels=True)[0] == picked
    assert pick_method(table.to_iterable_dataset(), model, reads_labels=True)[0] == "data-agent"


def test_the_look_at_a_row_draws_nothing_that_the_run_would_notice():
    config = transformers.BertConfig(num_labels=3)
    data, model = Drawing(size=SIZE), SimpleNamespace(config=config)

    def states():
        numpy = np.random.get_state()[1]  # noqa: NPY002
        return random.getstate(), numpy.tolist(), torch.get_rng_state().tolist()

    before = states()
    assert pick_method(data, model, reads_labels=True)[0] == "label-aware"
    assert states() == before


def test_a_language_model_keeps_the_policy_where_its_data_keep_a_column_of_labels():
    """Every config has two labels by default, and the collator makes the real ones of tokens."""
    rows = {"input_ids": [[2, 3, 4]] * 8, "label": [0, 1] * 4}
    table = datasets.Dataset.from_dict(rows)
    for model, picked in (
        (llama(), "data-agent: the model's labels are tokens"),
        (bert(), "label"),
    ):
        assert ": ".join(pick_method(table, model, reads_labels=True)).startswith(picked)
