"""Label rules at work: as a method of their own, on the policy, and on any other ranking."""

import logging

import pytest
import torch

from data_agent import DataAgent, DataAgentConfig, Feedback, make_selector
from data_agent.errors import DataAgentWarning, InputError
from data_agent.labels import LabelRules
from data_agent.labels.label_aware import LabelAware


def train(labels, logits, *, epochs=12, selector=None, keep_ratio=0.5):
    """Show the same outputs whenever a sample is visited; yield (selector, epoch, selection)."""
    size = len(labels)
    features = torch.randn(size, 6, generator=torch.Generator().manual_seed(1))
    losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    if selector is None:
        selector = LabelAware(num_samples=size, epochs=epochs, keep_ratio=keep_ratio)
    for epoch in selector.epochs():
        index = selector.select(epoch).index
        yield selector, epoch, index
        for rows in index.split(50):
            feedback = Feedback(rows, losses[rows], logits[rows], features[rows], labels[rows])
            selector.observe(feedback)


def rare_class():
    labels = (torch.arange(1000) % 20 == 0).long()
    return labels, torch.randn(1000, 2, generator=torch.Generator().manual_seed(0))


def noisy(*, size=6000, share=0.3, num_classes=10):
    draws = torch.Generator().manual_seed(0)
    truth = torch.randint(0, num_classes, (size,), generator=draws)
    is_wrong = torch.rand(size, generator=draws) < share
    shift = torch.randint(1, num_classes, (size,), generator=draws)
    labels = torch.where(is_wrong, (truth + shift) % num_classes, truth)
    logits = torch.randn(size, num_classes, generator=draws)
    logits[torch.arange(size), truth] += 5
    return labels, logits, is_wrong


def test_a_rare_class_gets_its_share_in_every_epoch_after_the_warm_up():
    labels, logits = rare_class()
    for _, epoch, index in train(labels, logits):
        if epoch >= 2:
            assert labels[index].sum() == 50  # all there are, of a share of 250
    off = LabelAware(
        **{"num_samples": 1000, "epochs": 12, "keep_ratio": 0.5},
        label_rules=LabelRules(class_shares=False),
    )
    *_, (_, _, index) = train(labels, logits, selector=off)
    assert labels[index].sum() < 50


def test_in_a_class_larger_than_its_share_no_sample_is_passed_over():
    labels = (torch.arange(1000) % 10 == 0).long()
    logits = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0))
    visits = {"selected": torch.zeros(1000), "final": torch.zeros(1000)}
    for selector, epoch, index in train(labels, logits, epochs=40):
        phase = selector.schedule.plan(epoch).phase
        if phase in visits:
            visits[phase][index] += 1
    for phase, spread in (("selected", 6), ("final", 1)):  # a tenth is explored by chance
        large = visits[phase][labels == 0]
        assert large.max() - large.min() <= spread
        assert visits[phase][labels == 1].min() >= large.max()


def test_a_sample_whose_loss_is_no_longer_finite_is_not_always_the_next_one():
    selector = LabelAware(num_samples=100, epochs=24, keep_ratio=0.4, on_nonfinite="skip")
    losses, logits, labels = torch.rand(100), torch.rand(100, 2), torch.arange(100) % 2
    visits = torch.zeros(100)
    for epoch in selector.epochs():
        if epoch == 3:  # its label is known by then
            losses[7] = torch.nan
        index = selector.select(epoch).index
        visits[index] += 1
        selector.observe(Feedback(index, losses[index], logits[index], labels=labels[index]))
    assert visits[7] <= visits.float().mean() + 2


def test_wrong_labels_are_doubted_left_out_to_the_end_and_named():
    labels, logits, is_wrong = noisy()
    for selector, epoch, index in train(labels, logits):
        if epoch >= 2:
            share = float(is_wrong[index].float().mean())
            is_final = selector.schedule.plan(epoch).phase == "final"
            assert share < (0.06 if is_final else 0.09)  # the explored tenth holds its 30 %
            assert selector.metrics()["doubtful_share"] == pytest.approx(0.3, abs=0.05)
            assert float(is_wrong[selector.suspects()].float().mean()) > 0.9


@pytest.mark.parametrize("num_classes", [2, 3, 9, 10, 40])
@pytest.mark.parametrize("rules", [LabelRules(), LabelRules(doubtful_labels=False)])
def test_a_person_is_shown_what_the_rules_do_not_leave_out(num_classes, rules):
    """Few wrong labels, few classes, or a rule that is off, are about training."""
    labels, logits, is_wrong = noisy(size=1000, share=0.08, num_classes=num_classes)
    selector = LabelAware(num_samples=1000, epochs=8, keep_ratio=0.5, label_rules=rules)
    *_, (_, _, index) = train(labels, logits, selector=selector)
    assert selector.metrics().get("doubtful_share", 0) == 0
    assert is_wrong[index].float().mean() > 0.04  # still trained on
    suspects = selector.suspects()
    assert 0.4 * is_wrong.sum() < suspects.sum() < 2 * is_wrong.sum()
    assert is_wrong[suspects].float().mean() > 0.5
    restored = LabelAware(num_samples=1000, epochs=8, keep_ratio=0.5, label_rules=rules)
    restored.load_state_dict(selector.state_dict())
    assert torch.equal(restored.suspects(), suspects)


@pytest.mark.parametrize("num_classes", [2, 3, 10])
def test_right_labels_are_not_doubted_by_a_model_near_chance(num_classes):
    """As in the first epochs on clean images: most right labels are not first, some are last."""
    draws = torch.Generator().manual_seed(0)
    labels = torch.randint(0, num_classes, (3000,), generator=draws)
    logits = torch.randn(3000, num_classes, generator=draws)
    logits[torch.arange(3000), labels] += 0.7 if num_classes == 10 else 0.3
    for selector, _, _ in train(labels, logits):
        assert selector.metrics().get("doubtful_share", 0) == 0
    if num_classes == 10:
        assert "near chance" in selector.summary()
    assert not selector.suspects().any()


def test_right_labels_are_not_doubted_by_a_good_model():
    draws = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 10, (2000,), generator=draws)
    logits = torch.randn(2000, 10, generator=draws)
    logits[torch.arange(2000), labels] += 3
    *_, (selector, _, _) = train(labels, logits)
    assert selector.metrics()["doubtful_share"] == 0
    assert selector.suspects().sum() < 20


def test_of_few_classes_no_label_is_doubted_and_the_words_say_so(caplog):
    """With two, the evidence is no more than the error on the training data."""
    labels, logits = rare_class()
    with caplog.at_level(logging.INFO, logger="data_agent"):
        *_, (selector, _, _) = train(labels, logits)
    assert "doubtful_share" not in selector.metrics()
    assert "doubtful labels: off, 2 classes; no policy" in selector.summary()
    assert "label-aware: label rules: equal class shares" in caplog.text


def test_labels_must_come_with_every_batch():
    selector = LabelAware(num_samples=8, epochs=4, keep_ratio=0.5)
    selector.begin_epoch(0)
    index = selector.select(0).index
    with pytest.raises(InputError, match=r"no labels came: call learn\(losses, index, labels="):
        selector.observe(Feedback(index, torch.rand(len(index))))
    selector.observe(Feedback(index, torch.rand(len(index)), labels=torch.zeros_like(index)))


def test_labels_alone_change_nothing_about_the_agent():
    """One name, one algorithm: what a batch brings does not decide which one runs."""
    labels, logits = rare_class()
    config = DataAgentConfig(update_every=2, rollout_rows=64)
    chosen = []
    for brings_labels in (True, False):
        agent = DataAgent(1000, 12, keep_ratio=0.5, config=config)
        features = torch.randn(1000, 6, generator=torch.Generator().manual_seed(1))
        for epoch in agent.epochs():
            index = agent.select(epoch).index
            for rows in index.split(100):
                own = labels[rows] if brings_labels else None
                agent.observe(
                    Feedback(rows, logits[rows].square().mean(1), logits[rows], features[rows], own)
                )
            chosen.append(index)
        assert agent.metrics()["policy_updates"] > 0
        assert "doubtful_share" not in agent.metrics()
        assert "no label rules" in agent.summary()
        with pytest.raises(InputError, match="runs without label rules"):
            agent.suspects()
    assert all(map(torch.equal, chosen[:12], chosen[12:]))


def test_rules_can_be_put_on_the_policy():
    labels, logits = rare_class()
    config = DataAgentConfig(label_rules=LabelRules(), update_every=2, rollout_rows=64)
    agent = DataAgent(1000, 12, keep_ratio=0.5, config=config)
    for _, epoch, index in train(labels, logits, selector=agent):
        if agent.schedule.plan(epoch).phase == "selected":
            assert labels[index].sum() == 50
    assert agent.metrics()["policy_updates"] > 0
    assert "policy, rewarded by difficulty and uncertainty" in agent.summary()
    assert "equal class shares; doubtful labels: off, 2 classes" in agent.summary()


@pytest.mark.parametrize("name", ["top-loss", "entropy", "small-margin"])
def test_rules_can_be_put_on_other_rankings(name):
    labels, logits = rare_class()
    base = {"num_samples": 1000, "epochs": 12, "keep_ratio": 0.5}
    selector = make_selector(name, **base, label_rules=LabelRules())
    assert f"method {name}; equal class shares; doubtful labels: off" in selector.summary()
    for _, epoch, index in train(labels, logits, selector=selector):
        if selector.schedule.plan(epoch).phase == "selected":
            assert labels[index].sum() == 50


def test_where_nothing_is_ranked_rules_are_refused():
    base = {"num_samples": 1000, "epochs": 12, "keep_ratio": 0.5}
    with pytest.raises(InputError, match="infobatch does not rank its samples"):
        make_selector("infobatch", **base, label_rules=LabelRules())


def test_the_warm_up_comes_first_where_the_final_phase_begins_in_it():
    with pytest.warns(DataAgentWarning, match="nothing will be selected"):
        selector = LabelAware(num_samples=1000, epochs=10, keep_ratio=0.1)
    seen = [selector.select(epoch).index for epoch in range(10)]
    assert len(torch.cat(seen).unique()) == 1000


@pytest.mark.parametrize("rules", [None, LabelRules(class_shares=False)])
def test_every_epoch_of_the_final_phase_is_representative_and_all_are_visited_alike(rules):
    """A ranking that rejected half of the samples must not leave that half to the last epochs."""
    schedule = "exact" if rules is None else "to-the-end"
    config = DataAgentConfig(
        schedule=schedule, label_rules=rules, update_every=2, rollout_rows=64, entropy_bonus=0.001
    )
    agent = DataAgent(1000, 48, keep_ratio=0.5, config=config)
    is_good = torch.arange(1000) % 2 == 0
    features = torch.stack([is_good.float(), torch.ones(1000)], dim=1)
    logits = torch.where(is_good, 0.1, 9.0)[:, None] * torch.tensor([1.0, -1.0])
    losses = torch.where(is_good, 3.0, 0.1)
    labels = torch.zeros(1000, dtype=torch.int64)
    shares, visits = {"selected": [], "final": []}, torch.zeros(1000)
    for epoch in agent.epochs():
        index = agent.select(epoch).index
        phase = agent.schedule.plan(epoch).phase
        if phase in shares:
            shares[phase].append(float(is_good[index].float().mean()))
        if phase == "final":
            visits[index] += 1
        for rows in index[torch.randperm(len(index))].split(50):
            agent.observe(Feedback(rows, losses[rows], logits[rows], features[rows], labels[rows]))
    assert shares["selected"][-1] > 0.6  # the policy has rejected much of the other half
    assert all(abs(share - 0.5) < 0.08 for share in shares["final"])
    assert visits.max() - visits.min() <= 1


def test_labels_above_the_numbers_of_two_bytes_are_labels_like_any_others():
    """They are looked up among the labels that there are, whose numbers are four bytes wide."""
    picked = {}
    for names in ([0, 1, 2], [0, 1, 40_000]):
        labels = torch.tensor(names)[torch.arange(60) % 3]
        selector = LabelAware(num_samples=60, epochs=6, keep_ratio=0.5)
        for epoch in range(6):
            selector.begin_epoch(epoch)
            index = selector.select(epoch).index
            losses = torch.rand(len(index), generator=torch.Generator().manual_seed(epoch))
            selector.observe(Feedback(index, losses, labels=labels[index]))
            picked.setdefault(epoch, []).append(index)
    for first, second in picked.values():
        assert torch.equal(first, second)
