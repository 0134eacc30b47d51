"""What every sample showed over training."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from data_agent import BatchSelector, Feedback, make_selector
from data_agent.errors import CheckpointError
from data_agent.selecting.statistics import SampleStatistics, belief, vote
from data_agent.suspicion import suspicion


def visited(visits, num_samples=2):
    """A table after visits `(index, losses, probabilities, labels)`, an epoch each."""
    table = SampleStatistics(num_samples)
    for index, losses, probability, labels in visits:
        logits = None if probability is None else torch.tensor(probability).log()
        rows = Feedback(
            torch.tensor(index),
            torch.tensor(losses),
            logits,
            labels=None if labels is None else torch.tensor(labels),
        )
        table.merge(rows.index, table.record(rows))
    return table


def test_means_over_visits_by_hand():
    table = visited(
        [
            ([0, 1], [2.0, 1.0], [[0.2, 0.7, 0.1], [0.5, 0.25, 0.25]], [0, 0]),
            ([0], [1.0], [[0.4, 0.5, 0.1]], [0]),
            ([0], [0.3], [[0.9, 0.05, 0.05]], [0]),
        ],
        num_samples=3,
    )
    found = table.arrays()
    assert found["visits"].tolist() == [3, 1, 0]
    assert_allclose(found["loss"], [0.3, 1.0, np.nan])
    assert_allclose(found["mean_loss"], [1.1, 1.0, np.nan], rtol=1e-6)
    assert_allclose(found["mean_probability"], [0.5, 0.5, np.nan], rtol=1e-6)
    assert_allclose(found["margin"], [(-0.5 - 0.1 + 0.85) / 3, 0.25, np.nan], rtol=1e-5)
    assert found["label"].tolist() == found["suggested_label"].tolist() == [0, 0, -1]
    entropy = 1.5 * np.log(2) / np.log(3)  # of a half and two quarters
    assert_allclose(found["uncertainty"][1], entropy, rtol=1e-6)


def test_a_table_has_the_suspicion_of_its_columns():
    assert SampleStatistics(2).suspicion() is None
    table = visited([([0, 1], [2.0, 1.0], [[0.2, 0.7, 0.1], [0.5, 0.3, 0.2]], [0, 0])], 3)
    found = table.suspicion()
    assert found.tolist() == [0.75, 0.25, 0.0]
    columns = table.arrays()
    assert (
        found.tolist()
        == suspicion({n: columns[n] for n in ("mean_loss", "margin", "loss")}).tolist()
    )


def test_the_class_that_is_suggested_is_the_one_believed_most():
    beliefs = [[0.1, 0.6, 0.3], [0.1, 0.2, 0.7], [0.1, 0.85, 0.05], [0.1, 0.5, 0.4]]
    table = visited([([0], [1.0], [p], [0]) for p in beliefs], num_samples=1)
    assert table.arrays()["suggested_label"].tolist() == [1]
    assert table.arrays()["margin"] < 0


def test_votes_find_every_class_with_more_than_a_third_of_them():
    draws = np.random.default_rng(0)
    for _ in range(200):
        others, votes = np.full((1, 2), -1, np.int32), np.zeros((1, 2), np.float32)
        weight = draws.random(30).astype(np.float32)
        classes = draws.choice(8, 30, p=[0.4, 0.3, *[0.05] * 6]).astype(np.int32)
        for at in range(30):
            others, votes = vote(others, votes, classes[at : at + 1], weight[at : at + 1])
        true = np.bincount(classes, weight, minlength=8)
        assert set(np.flatnonzero(true > true.sum() / 3)) <= set(others[0].tolist())
        assert (votes[0] <= true[others[0]] + 1e-4).all()


def test_belief_leaves_the_label_out():
    p = torch.tensor([[0.7, 0.2, 0.1], [0.7, 0.2, 0.1]])
    own, most, which = belief(p, torch.tensor([0, 1]))
    assert_allclose(own, [0.7, 0.2])
    assert_allclose(most, [0.2, 0.7])
    assert which.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("probability", "labels", "columns", "num_bytes"),
    [
        (None, None, set(), 12),
        ([[0.5, 0.5]], None, {"uncertainty"}, 16),
        (None, [1], {"label"}, 16),
        (
            [[0.5, 0.5]],
            [1],
            {"uncertainty", "label", "mean_probability", "margin", "suggested_label"},
            44,
        ),
        ([[0.5, 0.5]], [255], {"uncertainty"}, 16),  # a label that stands for "ignore"
    ],
)
def test_what_nothing_brings_is_absent_and_takes_no_memory(probability, labels, columns, num_bytes):
    table = SampleStatistics(1000)
    assert not table.state_dict()
    logits = None if probability is None else torch.tensor(probability)
    given = None if labels is None else torch.tensor(labels)
    rows = Feedback(torch.tensor([7]), torch.ones(1), logits, labels=given)
    table.merge(rows.index, table.record(rows))
    assert set(table.arrays()) == {"visits", "loss", "mean_loss"} | columns
    assert sum(column.nbytes for column in table.state_dict().values()) == num_bytes * 1000


def test_a_visit_that_does_not_bring_a_value_leaves_its_mean():
    both = ([0], [1.0], [[0.8, 0.2]], [0])
    table = visited([([0], [1.0], None, None), both, ([0], [1.0], None, None)])
    found = table.arrays()
    assert_allclose(found["mean_probability"][0], 0.8, rtol=1e-6)
    assert_allclose(found["margin"][0], 0.6, rtol=1e-6)
    assert found["label"][0] == 0


def feedback(epoch, index):
    draws = torch.Generator().manual_seed(1000 * epoch + int(index[0]))
    losses = torch.rand(len(index), generator=draws)
    logits = torch.randn(len(index), 12, generator=draws)
    features = torch.randn(len(index), 3, generator=draws)
    return Feedback(index, losses, logits, features, index % 12)


def observed(selector, num_epochs, last_batches=4):
    """The rows `(sample, loss)` of epochs of four batches; of the last one so many of them."""
    rows = []
    for epoch in range(num_epochs):
        selector.begin_epoch(epoch)
        num_batches = last_batches if epoch == num_epochs - 1 else 4
        for index in selector.select(epoch).index.split(8)[:num_batches]:
            batch = feedback(epoch, index)
            selector.observe(batch)
            rows += zip(index.tolist(), batch.losses.tolist(), strict=True)
    return rows


def new(name, **options):
    return make_selector(name, num_samples=64, epochs=4, keep_ratio=0.5, **options)


@pytest.mark.parametrize("name", ["data-agent", "label-aware", "random", "top-loss", "ucb"])
def test_the_running_epoch_counts_and_asking_changes_nothing(name):
    selector, silent = new(name), new(name)
    rows = observed(selector, 3, last_batches=3)
    found = selector.table()
    for sample in range(64):
        own = [loss for index, loss in rows if index == sample]
        assert found["visits"][sample] == len(own)
        if own:
            assert_allclose(found["loss"][sample], own[-1])
            assert_allclose(found["mean_loss"][sample], np.mean(own), rtol=1e-5)
    observed(silent, 3, last_batches=3)
    before, after = silent.state_dict(), selector.state_dict()
    assert_array_equal(before["block"][0]["index"], after["block"][0]["index"])
    assert ("score" in found) == (name in ("data-agent", "top-loss", "ucb"))
    assert ("suspected" in found) == (name == "label-aware")


@pytest.mark.parametrize("name", ["data-agent", "label-aware", "random"])
def test_trusted_rows_are_marked_in_the_table_and_counted_in_the_summary(name):
    selector = new(name, trusted=range(60, 64))
    observed(selector, 3)
    found = selector.table()
    assert found["trusted"].nonzero()[0].tolist() == [60, 61, 62, 63]
    assert found["trusted"].dtype == bool
    when = "every epoch" if name == "random" else "every epoch after the first pass"
    assert f"; 4 trusted rows in {when}; " in selector.summary()
    assert "trusted" not in new(name).table()
    assert "trusted" not in new(name).summary()


def test_a_batch_selector_remembers_what_it_trained_on():
    selector = new("selective-backprop")
    assert isinstance(selector, BatchSelector)
    selector.begin_epoch(0)
    pool = selector.select(0).index[:16]
    logits, losses = torch.randn(16, 5), torch.rand(16)
    keep = selector.select_batch(Feedback(pool, losses, logits, labels=pool % 5))
    selector.observe(Feedback(pool[keep], losses[keep], logits[keep], labels=pool[keep] % 5))
    found = selector.table()
    assert found["index"][found["visits"] == 1].tolist() == pool[keep].tolist()


def test_a_setting_turns_it_off_and_states_do_not_mix():
    selector = new("top-loss", sample_statistics=False)
    observed(selector, 2)
    assert set(selector.table()) == {"index", "score"}
    with pytest.raises(CheckpointError, match="sample_statistics was False, here it is True"):
        new("top-loss").load_state_dict(selector.state_dict())


def test_very_many_samples_are_remembered_on_request_only(monkeypatch):
    monkeypatch.setattr("data_agent.selecting.selector.MOST_STATISTICS", 63)
    assert set(new("random").table()) == {"index"}
    assert "visits" in new("random", sample_statistics=True).table()


def test_a_run_that_stops_anywhere_has_the_same_table():
    whole = new("data-agent")
    observed(whole, 3, last_batches=3)
    half = new("data-agent")
    observed(half, 3, last_batches=2)
    restored = new("data-agent")
    restored.load_state_dict(half.state_dict())
    restored.observe(feedback(2, restored.select(2).index.split(8)[2]))
    for name, column in whole.table().items():
        assert_array_equal(column, restored.table()[name])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("visits", torch.tensor([-1, 0], dtype=torch.int32)),
        ("label", torch.tensor([-2, 0], dtype=torch.int32)),
        ("margin", torch.zeros(2, dtype=torch.float64)),
        ("others", torch.zeros(2, dtype=torch.int32)),
        ("age", torch.zeros(2)),
    ],
)
def test_damaged_columns_are_refused(name, value):
    table = visited([([0, 1], [1.0, 1.0], [[0.5, 0.5]] * 2, [0, 1])])
    with pytest.raises(CheckpointError, match=name):
        table.load_state_dict({**table.state_dict(), name: value})
