"""An agent with trusted rows in a plain loop: what it chooses, its budget, what it refuses."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import TensorDataset

from data_agent import DataAgent, DataAgentConfig, make_selector, selection_loader
from data_agent.errors import CheckpointError, InputError
from data_agent.trusted import TrustedConfig

NUM_SAMPLES, NUM_CLASSES, NUM_TRUSTED = 1200, 4, 60
EPOCHS = 10


def wrong_labels(seed=0):
    """Clusters of four classes, of whose labels four in ten are wrong; but for the first rows."""
    draws = torch.Generator().manual_seed(seed)
    truth = torch.randint(NUM_CLASSES, (NUM_SAMPLES,), generator=draws)
    centres = 2.0 * torch.randn(NUM_CLASSES, 8, generator=draws)
    inputs = centres[truth] + torch.randn(NUM_SAMPLES, 8, generator=draws)
    is_wrong = torch.rand(NUM_SAMPLES, generator=draws) < 0.4
    is_wrong[:NUM_TRUSTED] = False
    labels = torch.where(is_wrong, (truth + 1) % NUM_CLASSES, truth)
    return inputs, labels, is_wrong


def trained(agent, inputs, labels, batch_size=32):
    """The selections of all epochs, as a linear model is trained on them."""
    torch.manual_seed(0)
    model = torch.nn.Linear(8, NUM_CLASSES)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = selection_loader(TensorDataset(inputs, labels), agent, batch_size=batch_size)
    agent.watch(model)
    selections = []
    for epoch in agent.epochs():
        selections.append(agent.select(epoch).index)
        for x, y, index in loader:
            losses = F.cross_entropy(model(x), y, reduction="none")
            agent.learn(losses, index, labels=y).backward()
            optimizer.step()
            optimizer.zero_grad()
    return selections


def test_wrong_labels_are_chosen_less_and_trusted_rows_are_in_every_chosen_epoch():
    inputs, labels, is_wrong = wrong_labels()
    agent = DataAgent(NUM_SAMPLES, EPOCHS, trusted=range(NUM_TRUSTED))
    selections = trained(agent, inputs, labels)
    assert {len(index) for index in selections} == {NUM_SAMPLES // 2}
    for index in selections[2:]:  # behind the warm-up
        assert torch.isin(torch.arange(NUM_TRUSTED), index).all()
    shares = [float(is_wrong[index].float().mean()) for index in selections]
    assert sum(shares[:2]) / 2 == pytest.approx(float(is_wrong.float().mean()), abs=1e-6)
    assert shares[-1] < 0.18  # of 0.38
    metrics = agent.metrics()
    assert metrics["trusted_rows"] == NUM_TRUSTED
    assert metrics["trusted_separation_held_back"] > 0.55
    assert f"trusted examples ({NUM_TRUSTED} rows)" in agent.summary()
    assert f"epoch {EPOCHS}/{EPOCHS} (selected)" in agent.summary()  # it chooses to the end
    assert 0 <= agent.expected_actions().min() <= agent.expected_actions().max() <= 1


def test_of_one_trusted_row_nothing_is_learned():
    """No other says whether it holds: a row seen often would be learned by heart and copied."""
    inputs, labels, _ = wrong_labels()
    agent = DataAgent(NUM_SAMPLES, EPOCHS, trusted=[0])
    trained(agent, inputs, labels)
    assert "trusted_calibration" not in agent.metrics()
    assert agent.metrics()["policy_updates"] == 0
    assert "one row alone teaches nothing" in agent.summary()
    assert (agent.expected_actions() == 0.5).all()


@pytest.mark.filterwarnings("ignore:nothing will be selected")
@pytest.mark.parametrize("method", ["data-agent", "label-aware", "small-loss", "random"])
@pytest.mark.parametrize(("keep_ratio", "num_trusted"), [(0.13, 60), (0.125, 60), (0.11, 12)])
def test_a_first_pass_that_ends_in_the_last_epochs_has_each_row_once(
    method, keep_ratio, num_trusted
):
    """An eighth of the data an epoch, eight epochs: the pass is over in the last one, or never."""
    budget = {"num_samples": 1000, "epochs": 8, "keep_ratio": keep_ratio}
    selector = make_selector(method, **budget, trusted=range(num_trusted))
    size, visits = selector.schedule.num_kept, torch.zeros(1000)
    for epoch in range(8):
        index = selector.select(epoch).index
        assert len(index) == size
        visits[index] += 1
    if method != "random":  # in all its epochs some are trusted
        assert int((visits > 0).sum()) == min(1000, 8 * size)
        assert visits.max() <= 2


def test_few_trusted_rows_among_many_are_learned_from():
    """In 80 steps of two rows one visit in fifty is of them: three, too few to fit anything."""
    inputs, labels, is_wrong = wrong_labels()
    agent = DataAgent(NUM_SAMPLES, 6, trusted=range(12))
    selections = trained(agent, inputs, labels, batch_size=2)
    assert float(is_wrong[selections[-1]].float().mean()) < 0.3  # of 0.38
    assert 0.5 < agent.metrics()["trusted_separation"] <= 1


def test_updates_are_counted_where_something_new_was_learned():
    """The last eighth of the epochs has no uniform draws, and so nothing to compare with."""
    inputs, labels, _ = wrong_labels()
    config = TrustedConfig(update_every=5)
    agent = DataAgent(NUM_SAMPLES, 16, trusted=range(NUM_TRUSTED), config=config)
    loader = selection_loader(TensorDataset(inputs, labels), agent, batch_size=30)
    learned = []
    for _ in agent.epochs():
        before = agent.metrics()["policy_updates"]
        for x, y, index in loader:
            logits = (F.one_hot(y, NUM_CLASSES) + x[:, :NUM_CLASSES]).requires_grad_()
            losses = F.cross_entropy(logits, y, reduction="none")
            agent.learn(losses, index, logits=logits, labels=y)
        learned.append(agent.metrics()["policy_updates"] - before)
    assert learned[1:] == [4] * 13 + [0, 0]  # at the very first update there was too little


def test_where_nothing_tells_trusted_rows_apart_most_rows_are_drawn_as_often():
    inputs, labels, _ = wrong_labels()
    rows = torch.randperm(NUM_SAMPLES, generator=torch.Generator().manual_seed(1))
    agent = DataAgent(NUM_SAMPLES, EPOCHS, trusted=rows[:NUM_TRUSTED])
    trained(agent, inputs, labels)
    assert agent.metrics()["avoided_share"] < 0.35


def test_trusted_rows_alone_do_not_change_what_a_method_without_a_reward_does_to_others():
    inputs, labels, is_wrong = wrong_labels()
    random = make_selector(
        "random", num_samples=NUM_SAMPLES, epochs=EPOCHS, keep_ratio=0.5, trusted=range(60)
    )
    selections = trained(random, inputs, labels)
    for index in selections:
        assert torch.isin(torch.arange(NUM_TRUSTED), index).all()
        others = index[index >= NUM_TRUSTED]
        assert float(is_wrong[others].float().mean()) == pytest.approx(0.4, abs=0.07)


def test_classes_that_trusted_rows_hold_more_often_are_chosen_more_often():
    inputs, labels, _ = wrong_labels()
    labels = torch.where(torch.arange(NUM_SAMPLES) % 12 == 0, 3, labels % 3)  # one in twelve is 3
    rows = torch.cat([(labels == c).nonzero().squeeze(1)[:15] for c in range(4)])
    agent = DataAgent(NUM_SAMPLES, EPOCHS, trusted=rows)
    last = trained(agent, inputs, labels)[-1]
    counts = torch.bincount(labels[last], minlength=4)
    assert counts[3] > 0.8 * int((labels == 3).sum())  # of a random half it would be a half
    assert "more of class 3" in agent.summary()


def test_class_shares_stay_those_of_the_data_where_trusted_rows_were_picked_by_hand():
    """Ten of each class are trusted, one in twelve of all is of class 3; and labels are wrong."""
    inputs, labels, is_wrong = wrong_labels()
    is_rare = torch.arange(NUM_SAMPLES) % 12 == 0
    labels = torch.where(is_rare, 3, labels % 3)
    rows = torch.cat([((labels == c) & ~is_wrong).nonzero().squeeze(1)[:10] for c in range(4)])
    is_other = ~torch.isin(torch.arange(NUM_SAMPLES), rows)
    of_data = float((labels[is_other] == 3).double().mean())
    shares = {}
    for class_shares in ("trusted", "data"):
        config = TrustedConfig(class_shares=class_shares)
        agent = DataAgent(NUM_SAMPLES, EPOCHS, trusted=rows, config=config)
        chosen = torch.cat(trained(agent, inputs, labels)[2:])
        others = chosen[is_other[chosen]]
        shares[class_shares] = float((labels[others] == 3).double().mean())
    assert shares["data"] == pytest.approx(of_data, abs=0.012)
    assert shares["trusted"] > of_data + 0.02


@pytest.mark.parametrize(
    ("trusted", "says"),
    [
        ([], "at least one row"),
        (torch.ones(NUM_SAMPLES, dtype=torch.bool), r"torch.as_tensor\(mask\).nonzero"),
        ([int(i < 9) for i in range(NUM_SAMPLES)], r"1200 zeros and ones, a mask .*\.nonzero"),
        ([0.5], "whole numbers"),
        ([0, NUM_SAMPLES], "append_trusted"),
        ([3, 3], "twice"),
        (range(400), "more than half of an epoch"),
    ],
)
def test_rows_that_cannot_be_trusted_are_refused(trusted, says):
    with pytest.raises(InputError, match=says):
        DataAgent(NUM_SAMPLES, EPOCHS, trusted=trusted)


def test_trusted_rows_and_what_is_drawn_uniformly_must_fit_in_an_epoch():
    says = r"200 rows are trusted and 540 are drawn uniformly \(explore 0.9\).* epoch of 600"
    many = TrustedConfig(explore=0.9)
    with pytest.raises(InputError, match=says):
        DataAgent(NUM_SAMPLES, EPOCHS, trusted=range(200), config=many)
    for config in (TrustedConfig(explore=0.6), many):
        num_trusted = round((1 - config.explore) * 600)
        agent = DataAgent(NUM_SAMPLES, EPOCHS, trusted=range(num_trusted), config=config)
        assert {len(agent.select(epoch).index) for epoch in range(EPOCHS)} == {600}


@pytest.mark.parametrize(
    "trusted",
    [
        TensorDataset(torch.zeros(4, 3), torch.zeros(4)),
        {3, 4},
        slice(3, 9),
        (i for i in range(9)),
        "3, 4",
        ["3", "4"],
        [None],
    ],
)
def test_what_holds_no_positions_is_refused_by_its_kind(trusted):
    says = rf"trusted is a {type(trusted).__name__}, .*train_set, rows = append_trusted"
    with pytest.raises(InputError, match=says):
        DataAgent(NUM_SAMPLES, EPOCHS, trusted=trusted)


def test_positions_may_come_as_whatever_holds_whole_numbers():
    marks = [i in (3, 4) for i in range(NUM_SAMPLES)]
    for mask in (marks, np.array(marks), torch.tensor(marks), torch.tensor(marks).int()):
        rows = torch.as_tensor(mask).nonzero().flatten()  # as the messages say
        assert DataAgent(NUM_SAMPLES, EPOCHS, trusted=rows).trusted.nonzero().tolist() == [[3], [4]]
    for rows in ((3, 4), range(3, 5), np.array([3, 4], dtype=np.uint16), [torch.tensor(3), 4]):
        assert DataAgent(NUM_SAMPLES, EPOCHS, trusted=rows).trusted.sum() == 2
    assert DataAgent(2, 8, keep_ratio=1.0, trusted=[1]).trusted.tolist() == [False, True]


def test_batches_that_bring_other_things_are_refused():
    labels = wrong_labels()[1]
    agent = DataAgent(NUM_SAMPLES, EPOCHS, trusted=range(60))
    agent.begin_epoch(0)
    index = agent.select(0).index
    logits = torch.randn(8, NUM_CLASSES)
    losses = torch.rand(8, requires_grad=True)
    agent.learn(losses, index[:8], logits=logits, labels=labels[index[:8]])
    with pytest.raises(InputError, match="must be the same in every batch"):
        agent.learn(losses, index[8:16], logits=logits)


@pytest.mark.parametrize(
    ("method", "says"),
    [
        ("selective-backprop", "inside each batch"),
        ("infobatch-published", "infobatch in place of infobatch-published"),
    ],
)
def test_methods_without_room_for_trusted_rows_refuse_them(method, says):
    keep_ratio = 1.0 if method == "infobatch-published" else 0.5
    with pytest.raises(InputError, match=says):
        make_selector(method, num_samples=100, epochs=8, keep_ratio=keep_ratio, trusted=range(9))
    make_selector("infobatch", num_samples=100, epochs=8, keep_ratio=0.5, trusted=range(9))


def test_a_state_of_other_trusted_rows_is_refused():
    def state_of(saved, other):
        other = make_selector("random", **budget, trusted=other)
        other.load_state_dict(make_selector("random", **budget, trusted=saved).state_dict())

    budget = {"num_samples": NUM_SAMPLES, "epochs": EPOCHS, "keep_ratio": 0.5}
    state_of(range(60), torch.arange(60))
    with pytest.raises(
        CheckpointError, match=r"had trusted rows, and here there are others \(pass"
    ):
        state_of(range(60), range(1, 61))
    with pytest.raises(
        CheckpointError, match=r"here there are none .*trusted=, .*trusted_dataset="
    ):
        state_of(range(60), None)
    with pytest.raises(CheckpointError, match=r"without trusted rows, .*leave trusted= out"):
        state_of(None, range(60))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sharpness", -1),
        ("sharpness", float("inf")),
        ("memory", 1.0),
        ("update_every", 2.5),
        ("explore", 0),
        ("class_shares", "equal"),
    ],
)
def test_settings_outside_their_range_are_named(name, value):
    with pytest.raises(InputError, match=name):
        TrustedConfig(**{name: value})


def test_a_config_of_the_other_kind_is_refused():
    with pytest.raises(InputError, match="TrustedConfig"):
        DataAgent(NUM_SAMPLES, EPOCHS, trusted=range(60), config=DataAgentConfig())
    with pytest.raises(
        InputError, match=r"trusted= is missing\. Pass .*trusted=rows.*DataAgentConf"
    ):
        DataAgent(NUM_SAMPLES, EPOCHS, config=TrustedConfig())


def test_whose_label_is_doubtful_is_told_without_label_rules():
    inputs, labels, is_wrong = wrong_labels()
    agent = DataAgent(NUM_SAMPLES, EPOCHS, trusted=range(NUM_TRUSTED))
    trained(agent, inputs, labels)
    with pytest.raises(InputError, match=r"\"margin\".*\"suggested_label\".*'label-aware'"):
        agent.suspects()
    table = agent.table()
    lowest = np.argsort(table["margin"])[:200]
    assert is_wrong[lowest].float().mean() > 0.8
    truth = (labels - is_wrong.long()) % NUM_CLASSES
    assert (table["suggested_label"][lowest] == truth[lowest].numpy()).mean() > 0.8
    rules: Any = make_selector(
        "label-aware", num_samples=NUM_SAMPLES, epochs=EPOCHS, keep_ratio=0.5, trusted=range(60)
    )
    trained(rules, inputs, labels)
    assert is_wrong[rules.suspects()].float().mean() > 0.8
