"""The noise rate of labels by hand, and where it is learned that labels look random."""

import math
from functools import partial

import pytest
import torch
from ranks import join_group, run_ranks

from data_agent import Feedback, make_selector, selection_loader
from data_agent.errors import InputError
from data_agent.labels import LabelRules
from data_agent.labels.margins import comes_late
from data_agent.labels.noise_rate import LatePlace, NoiseRateTable, noise_rate
from data_agent.testing import check_selector
from data_agent.testing.runs import equal_states

NUM_CLASSES = 10


def test_the_noise_rate_by_hand():
    # Of ten classes one counts as late, so a ninth of wrong labels do. If 0.45 are wrong, 0.05 come
    # late; where the odds are twice as high 2/21 do, and 9 * 2/21 are wrong; then it is cut off.
    odds = torch.tensor([0.0, math.log(2.0), math.log(20.0), -20.0])
    rate = noise_rate(odds, 0.45, 10)
    assert rate.tolist() == pytest.approx([0.45, 9 * 2 / 21, 0.95, 0.0], abs=1e-6)
    # Of 170 classes 17 count: with 0.3 wrong labels, 17/169 * 0.3 of all come late.
    assert float(noise_rate(odds[:1], 0.3, 170)) == pytest.approx(0.3)
    assert noise_rate(odds, 0.0, 10).tolist() == [0, 0, 0, 0]
    assert noise_rate(odds, 1.0, 2).isfinite().all()


def test_the_least_likely_tenth_of_the_classes_is_late():
    logits = torch.tensor([[0.0, 3.0, 2.0, 1.0]] * 3 + [[1.0] * 4])
    assert comes_late(logits, torch.tensor([0, 3, 1, 2])).tolist() == [True, False, False, False]
    logits = torch.arange(30.0).expand(5, 30)  # three of thirty
    late = comes_late(logits, torch.tensor([0, 1, 2, 3, 29]))
    assert late.tolist() == [True, True, True, False, False]


def test_the_reward_is_the_logarithm_of_how_likely_a_label_is_right():
    table = NoiseRateTable(3, seed=0, memory=0.5, sharpness=2.0, level=lambda: (0.45, NUM_CLASSES))
    table.merge(torch.tensor([0, 1]), torch.tensor([[0.0], [math.log(2.0)]]))
    right = [0.55, 1 - 9 * 2 / 21, 0.55]  # a sample without a visit is an average one
    assert table.expected_actions().tolist() == pytest.approx(right, abs=1e-3)
    assert table.reward(table.averages()).exp().tolist() == pytest.approx(right, abs=1e-3)


def junk_in_a_corner(size=2000, seed=0):
    """A third of the samples, which look alike, have labels at random; of the others many are hard.

    Returns:
        features `[N, 4]`, logits `[N, C]`, labels `[N]`, which are junk, which are right but hard.
    """
    draws = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, NUM_CLASSES, (size,), generator=draws)
    is_junk = torch.arange(size) % 3 == 0
    is_hard = ~is_junk & (torch.rand(size, generator=draws) < 0.5)
    logits = torch.randn(size, NUM_CLASSES, generator=draws)
    at = torch.arange(size)
    logits[at, labels] += 3.0 * ~is_junk  # junk says nothing of its label
    confused = (labels + 1) % NUM_CLASSES  # hard ones are taken for another class, surely
    logits[at[is_hard], confused[is_hard]] += 4.0
    features = torch.randn(size, 4, generator=draws)
    features[:, 0] += 3.0 * is_junk
    return features, logits, labels, is_junk, is_hard


def test_odds_are_high_where_labels_are_random_and_not_where_they_are_hard():
    features, logits, labels, is_junk, is_hard = junk_in_a_corner()
    learner, losses = LatePlace(seed=0), torch.nn.functional.cross_entropy
    for epoch in range(3):
        for step, rows in enumerate(torch.arange(len(labels)).split(50)):
            loss = losses(logits[rows], labels[rows], reduction="none")
            feedback = Feedback(rows, loss, logits[rows], features[rows], labels[rows])
            odds = learner.rate(feedback, torch.full_like(rows, 40 * epoch + step))
            assert (odds == 0).all() == (epoch == 0)
        learner.update()
    loss = losses(logits, labels, reduction="none")
    at = torch.zeros_like(labels)
    odds = learner.rate(Feedback(torch.arange(len(labels)), loss, logits, features, labels), at)
    others = ~is_junk & ~is_hard
    assert odds[is_junk].mean() > odds[others].mean() + 2
    assert abs(odds[is_hard].mean() - odds[others].mean()) < 1
    assert learner.metrics()["noise_separation"] > 0.8


def shares_of_junk(selector, data):
    """The share of junk in each epoch of a model that never changes."""
    features, logits, labels, is_junk, _ = data
    losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    shares = []
    for epoch in selector.epochs():
        index = selector.select(epoch).index
        shares.append(float(is_junk[index].float().mean()))
        for rows in index.split(50):
            feedback = Feedback(rows, losses[rows], logits[rows], features[rows], labels[rows])
            selector.observe(feedback)
    return shares


def noise_aware(size, **options):
    return make_selector(
        "noise-aware", num_samples=size, epochs=12, keep_ratio=0.5, seed=0, **options
    )


def test_samples_whose_labels_are_random_are_left_alone():
    data = junk_in_a_corner()
    selector = noise_aware(len(data[2]))
    shares = shares_of_junk(selector, data)
    assert shares[0] == pytest.approx(1 / 3, abs=0.01)
    assert max(shares[4:]) < 0.2
    assert shares[-1] < 0.12
    assert selector.metrics()["avoided_share"] == pytest.approx(1 / 3, abs=0.03)
    right = selector.table()["score"]
    assert right[data[3]].mean() < 0.3 < 0.7 < right[~data[3]].mean()
    assert "avoids 3" in selector.summary()


def test_hard_samples_alone_are_no_reason_to_avoid_any():
    features, logits, labels, is_junk, is_hard = junk_in_a_corner()
    logits[torch.arange(len(labels)), labels] += 3.0 * is_junk  # as easy as the others
    selector = noise_aware(len(labels))
    shares_of_junk(selector, (features, logits, labels, is_junk, is_hard))
    assert selector.metrics()["avoided_share"] == 0


def test_of_few_classes_nothing_is_concluded():
    features, logits, labels, is_junk, is_hard = junk_in_a_corner()
    few = (features, logits[:, :4], labels % 4, is_junk, is_hard)
    selector = noise_aware(len(labels))
    shares = shares_of_junk(selector, few)
    assert min(shares) > 0.28


@pytest.mark.parametrize("rules", [None, LabelRules(), LabelRules(class_shares=False)])
def test_it_keeps_the_laws(rules):
    check_selector(partial(make_selector, "noise-aware", label_rules=rules))


def test_a_batch_that_tells_too_little_is_refused():
    losses, features = torch.rand(4), torch.randn(4, 3)
    logits, labels = torch.randn(4, 10), torch.arange(4)
    selector = noise_aware(16)
    selector.begin_epoch(0)
    first, second = selector.select(0).index[:8].split(4)
    for feedback, said in (
        (Feedback(first, losses, logits, features), "no labels came"),
        (Feedback(first, losses, logits, labels=labels), "no features came"),
        (Feedback(first, losses, features=features, labels=labels), "no logits came"),
    ):
        with pytest.raises(InputError, match=said):
            selector.observe(feedback)
    selector.observe(Feedback(first, losses, logits, features, labels))
    with pytest.raises(InputError, match="2 wide; so far they were 3 wide"):
        selector.observe(Feedback(second, losses, logits, features[:, :2], labels))


def observe(selector, loader, data, stop=None):
    """Train on what the loader delivers; returns the batches, (epoch, index) each."""
    features, logits, labels, *_ = data
    losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    log = []
    for epoch in selector.epochs():
        for step, (rows,) in enumerate(loader):
            if (epoch, step) == stop:
                return log
            selector.observe(
                Feedback(rows, losses[rows], logits[rows], features[rows], labels[rows])
            )
            log.append((epoch, rows.tolist()))
    return log


def on_rank(rank):
    """A whole run, and one that is saved in an epoch and goes on with a new selector."""
    join_group()
    data, ends = junk_in_a_corner(1500), []
    dataset = Positions(1500)
    for stop in (None, (6, 3)):
        selector = noise_aware(1500)
        loader = selection_loader(dataset, selector, batch_size=25)
        log = observe(selector, loader, data, stop)
        if stop is not None:
            state = selector.state_dict()
            selector = noise_aware(1500)
            loader = selection_loader(dataset, selector, batch_size=25)
            selector.load_state_dict(state)
            log += observe(selector, loader, data)
        told = {name: selector.metrics()[name] for name in ("avoided_share", "policy_updates")}
        ends.append((log, {**selector.state_dict(), "overhead_seconds": 0.0}, told))
    return ends


class Positions(torch.utils.data.Dataset):
    """Nothing but the index, which the loader adds."""

    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return ()


@pytest.mark.distributed
def test_two_ranks_learn_one_noise_rate_and_go_on_to_the_same_end(tmp_path):
    (whole, resumed), (other, _) = run_ranks(on_rank, tmp_path)
    assert whole[0] == resumed[0]
    assert equal_states(whole[1], resumed[1])
    assert equal_states(whole[1], other[1])
    assert whole[2] == resumed[2]
    assert whole[2]["avoided_share"] == pytest.approx(1 / 3, abs=0.08)
    assert whole[2]["policy_updates"] > 10
