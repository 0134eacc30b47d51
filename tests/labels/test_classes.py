"""What labels tell a choice: shares of classes, suspected labels."""

import pytest
import torch

from data_agent import DataAgent, DataAgentConfig, Feedback
from data_agent.agent.reward import uncertainty
from data_agent.errors import CheckpointError, DataAgentWarning
from data_agent.labels.classes import (
    ClassTable,
    equal_shares,
    highest_of_each,
    label_margin,
    last_rank_evidence,
    suspected,
)

LOGITS = torch.tensor([[2.0, 0.0, -1.0], [2.0, 0.0, -1.0], [2.0, 0.0, -1.0], [0.0, 0.0, 0.0]])
LABELS = torch.tensor([0, 1, 2, 1])


def test_the_margin_is_own_probability_less_the_best_other():
    p = torch.softmax(LOGITS[0], 0)
    expected = torch.stack([p[0] - p[1], p[1] - p[0], p[2] - p[0], torch.tensor(0.0)])
    torch.testing.assert_close(label_margin(LOGITS, LABELS), expected)


def test_a_label_that_comes_last_counts_for_all_that_do_not():
    logits = torch.arange(12.0).expand(3, -1)
    assert last_rank_evidence(logits, torch.tensor([11, 1, 0])).tolist() == [0, 0, 11]
    assert last_rank_evidence(torch.zeros(1, 12), torch.tensor([5])).tolist() == [0]
    tied = torch.tensor([[0.0] * 11 + [1.0]])
    assert last_rank_evidence(tied, torch.tensor([5])).tolist() == [1]  # one of eleven, times 11
    assert last_rank_evidence(LOGITS, LABELS).tolist() == [0, 0, 0, 0]  # too few classes


@pytest.mark.parametrize(("share", "num_classes"), [(0.0, 10), (0.3, 10), (0.4, 100)])
def test_the_evidence_estimates_uniform_noise_where_the_model_is_right(share, num_classes):
    draws = torch.Generator().manual_seed(0)
    size = 200_000
    truth = torch.randint(0, num_classes, (size,), generator=draws)
    shift = torch.randint(1, num_classes, (size,), generator=draws)
    is_wrong = torch.rand(size, generator=draws) < share
    labels = torch.where(is_wrong, (truth + shift) % num_classes, truth)
    logits = torch.randn(size, num_classes, generator=draws)
    logits[torch.arange(size), truth] = 9.0
    assert last_rank_evidence(logits, labels).mean().item() == pytest.approx(share, abs=0.02)


@pytest.mark.parametrize(
    ("sizes", "taken", "count", "quota"),
    [
        ([100, 100, 100], [0, 0, 0], 30, [10, 10, 10]),
        ([100, 5, 50], [0, 0, 0], 45, [20, 5, 20]),
        ([100, 5, 50], [30, 0, 0], 45, [5, 5, 35]),
        ([10, 10, 10], [3, 0, 0], 9, [1, 4, 4]),
        ([3, 9, 6], [0, 0, 0], 9, [3, 3, 3]),
        ([3, 9, 6], [0, 0, 0], 18, [3, 9, 6]),
        ([3, 9, 6], [5, 5, 5], 0, [0, 0, 0]),
        ([0, 4], [0, 0], 2, [0, 2]),
    ],
)
def test_classes_rise_to_one_level(sizes, taken, count, quota):
    assert equal_shares(torch.tensor(sizes), torch.tensor(taken), count).tolist() == quota


def test_shares_add_up_and_never_ask_for_more_than_there_is():
    draws = torch.Generator().manual_seed(0)
    for _ in range(300):
        sizes = torch.randint(0, 40, (7,), generator=draws)
        taken = torch.randint(0, 40, (7,), generator=draws)
        count = int(torch.randint(0, int(sizes.sum()) + 1, (), generator=draws))
        quota = equal_shares(sizes, taken, count)
        assert int(quota.sum()) == count
        assert ((quota >= 0) & (quota <= sizes)).all()
        total = taken + quota
        can_give, can_take = quota > 0, quota < sizes
        if can_give.any() and can_take.any():  # no class could give one to a smaller one
            assert int(total[can_give].max()) <= int(total[can_take].min()) + 1


def test_the_highest_of_each_group_are_those_a_sort_of_each_finds():
    draws = torch.Generator().manual_seed(0)
    scores, group = torch.rand(500, generator=draws), torch.randint(0, 5, (500,), generator=draws)
    among = torch.rand(500, generator=draws) < 0.7
    quota = torch.tensor([4, 0, 30, 1, 50])
    found = highest_of_each(scores, group, quota, among=among)
    expected = set()
    for g in range(5):
        rows = (among & (group == g)).nonzero().squeeze(1)
        expected |= set(rows[scores[rows].argsort(descending=True)[: quota[g]]].tolist())
    assert len(found) == quota.sum()
    assert set(found.tolist()) == expected


def test_equal_scores_are_drawn_at_random():
    scores, group, quota = torch.zeros(1000), torch.zeros(1000, dtype=torch.int64), [100]
    one, other = (
        highest_of_each(scores, group, torch.tensor(quota), tie_seed=seed) for seed in (1, 2)
    )
    assert 0 < len(set(one.tolist()) & set(other.tolist())) < 40
    assert 300 < one.float().mean() < 700


def test_suspects_are_the_lowest_margins_of_each_class():
    margin = torch.tensor([0.9, -0.5, 0.1, 0.8, -0.9, -0.8, -0.7, -0.6])
    group = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    assert suspected(margin, group, 0.3).nonzero().squeeze(1).tolist() == [1, 4]
    assert not suspected(margin, group, 0.2).any()


def table_of(labels, margins, evidence, **parts):
    table = ClassTable(len(labels), **{"balance": True, "drop_suspects": True, **parts})
    rows = torch.stack([torch.tensor(v, dtype=torch.float32) for v in (labels, margins, evidence)])
    table.merge(torch.arange(len(labels)), rows.T)
    return table


def test_suspects_are_chosen_only_where_no_others_are_left():
    labels, margins = [0] * 100, torch.linspace(-0.9, 0.9, 100).tolist()
    evidence = [0.7] * 30 + [0.0] * 70  # 21 of a hundred
    table = table_of(labels, margins, evidence)
    scores, excluded = torch.linspace(1, 0, 100), torch.zeros(100, dtype=torch.bool)
    assert table.suspects().nonzero().squeeze(1).tolist() == list(range(21))
    assert sorted(table.choose(scores, 30, excluded, tie_seed=0).tolist()) == list(range(21, 51))
    excluded[99] = True
    chosen = sorted(table.choose(scores, 80, excluded, tie_seed=0).tolist())
    assert chosen == list(range(19, 99))  # the least of them
    believing = table_of(labels, margins, evidence, drop_suspects=False)
    assert sorted(believing.choose(scores, 3, excluded, tie_seed=0).tolist()) == [0, 1, 2]
    few_signs = table_of(labels, margins, [10.0, 11.0] + [0.0] * 98)
    assert not few_signs.suspects().any()


def test_samples_without_a_label_come_as_often_as_they_are_there_and_are_no_suspects():
    labels = [-1] * 20 + [0] * 90 + [1] * 90
    margins = [2.0] * 20 + [-0.5] * 60 + [0.5] * 120
    table = table_of(labels, margins, [0.0] * 20 + [1.0] * 60 + [0.0] * 120)
    assert not table.suspects()[:20].any()
    nobody = torch.zeros(200, dtype=torch.bool)
    chosen = table.choose(torch.rand(200), 70, nobody, tie_seed=0)
    assert (chosen < 20).sum() == round(70 * 20 / (200 - int(table.suspects().sum())))


def test_a_visit_without_a_label_and_labels_of_no_class_take_nothing_away():
    table = table_of([3, 3], [0.8, 0.8], [0.0, 0.0])
    before = table.state_dict()
    index, logits = torch.arange(2), torch.rand(2, 12)
    for labels in (None, torch.tensor([-100, 255])):
        table.merge(index, table.rows(Feedback(index, torch.rand(2), logits, labels=labels)))
    assert all(torch.equal(value, before[name]) for name, value in table.state_dict().items())


def test_what_is_left_over_goes_to_other_classes_each_time():
    sizes, taken = torch.full((40,), 5), torch.zeros(40, dtype=torch.int64)
    shares = [equal_shares(sizes, taken, 10, seed=seed) for seed in range(200)]
    assert int(torch.stack(shares).sum(0).min()) > 25  # of 50


def test_a_margin_is_averaged_over_visits():
    table = table_of([0, 0], [0.8, 0.8], [0.0, 0.0])
    table.merge(torch.tensor([1]), torch.tensor([[0.0, -0.4, 0.0]]))
    torch.testing.assert_close(table.state_dict()["margin"], torch.tensor([0.8, 0.2]))


def test_no_labels_or_those_that_do_not_count_change_nothing():
    table = ClassTable(4, balance=True, drop_suspects=True)
    index, losses, logits = torch.arange(4), torch.rand(4), torch.rand(4, 3)
    for labels in (None, torch.full((4,), -100)):
        table.merge(index, table.rows(Feedback(index, losses, logits, labels=labels)))
        assert table.is_empty
        assert table.suspected_share == 0
        scores, nobody = torch.tensor([0.1, 0.9, 0.8, 0.2]), torch.zeros(4, dtype=torch.bool)
        assert sorted(table.choose(scores, 2, nobody, tie_seed=0).tolist()) == [1, 2]


def test_a_damaged_table_is_refused():
    table = table_of([0, 1], [0.8, 0.8], [0.0, 0.0])
    state = table.state_dict()
    state["label"] = torch.tensor([0, -7], dtype=torch.int32)
    with pytest.raises(CheckpointError, match="a label is -7"):
        table.load_state_dict(state)


def train(labels, logits, *, epochs=12, **settings):
    """Show an agent the same outputs whenever a sample is visited; yield (epoch, selection)."""
    size = len(labels)
    features = torch.randn(size, 6, generator=torch.Generator().manual_seed(1))
    losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    agent = DataAgent(size, epochs, keep_ratio=0.5, seed=0, config=DataAgentConfig(**settings))
    for epoch in agent.epochs():
        index = agent.select(epoch).index
        yield agent, epoch, index
        for rows in index.split(50):
            agent.observe(Feedback(rows, losses[rows], logits[rows], features[rows], labels[rows]))


def test_a_rare_class_gets_its_share_in_every_epoch_after_the_warm_up():
    labels = (torch.arange(1000) % 20 == 0).long()
    logits = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0))
    for _, epoch, index in train(labels, logits, drop_suspects=False):
        if epoch >= 2:
            assert labels[index].sum() == 50  # all there are, of a share of 250
    *_, (_, _, index) = train(labels, logits, class_balance=False, schedule="exact")
    assert labels[index].sum() < 50


def test_in_a_class_larger_than_its_share_nobody_is_passed_over():
    labels = (torch.arange(1000) % 10 == 0).long()
    logits = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0))
    visits = {"selected": torch.zeros(1000), "final": torch.zeros(1000)}
    for agent, epoch, index in train(labels, logits, epochs=40):
        phase = agent.schedule.plan(epoch).phase
        if phase in visits:
            visits[phase][index] += 1
    for phase, spread in (("selected", 6), ("final", 1)):  # a tenth is explored by chance
        large = visits[phase][labels == 0]
        assert large.max() - large.min() <= spread
        assert visits[phase][labels == 1].min() >= large.max()


def test_a_sample_whose_loss_is_no_longer_finite_is_not_always_the_next_one():
    agent = DataAgent(100, 24, keep_ratio=0.4, seed=0, on_nonfinite="skip")
    losses, logits, labels = torch.rand(100), torch.rand(100, 2), torch.arange(100) % 2
    visits = torch.zeros(100)
    for epoch in agent.epochs():
        if epoch == 3:  # its label is known by then
            losses[7] = torch.nan
        index = agent.select(epoch).index
        visits[index] += 1
        rows = (index, losses[index], logits[index], logits[index], labels[index])
        agent.observe(Feedback(*rows))
    assert visits[7] <= visits.float().mean() + 2


def test_wrong_labels_are_suspected_and_left_out_to_the_end():
    draws = torch.Generator().manual_seed(0)
    truth = torch.randint(0, 10, (6000,), generator=draws)
    is_wrong = torch.rand(6000, generator=draws) < 0.3
    shift = torch.randint(1, 10, (6000,), generator=draws)
    labels = torch.where(is_wrong, (truth + shift) % 10, truth)
    logits = torch.randn(6000, 10, generator=draws)
    logits[torch.arange(6000), truth] += 5
    for agent, epoch, index in train(labels, logits):
        if epoch >= 2:
            share = float(is_wrong[index].float().mean())
            is_final = agent.schedule.plan(epoch).phase == "final"
            assert share < (0.06 if is_final else 0.09)  # the explored tenth holds its 30 %
            assert agent.metrics()["suspected_share"] == pytest.approx(0.3, abs=0.05)
            assert float(is_wrong[agent.suspects()].float().mean()) > 0.9


def test_where_the_policy_ranks_nothing_it_is_not_asked_and_own_signals_are_warned_of():
    draws = torch.Generator().manual_seed(0)
    labels, logits = torch.arange(400) % 4, torch.randn(400, 4, generator=draws)
    *_, (agent, _, _) = train(labels, logits)
    assert agent.metrics()["policy_updates"] == 0
    assert "tau" not in agent.metrics()
    *_, (agent, _, _) = train(labels, logits, policy_share=0.5, signals=(uncertainty,))
    assert agent.metrics()["policy_updates"] > 0
    with pytest.warns(DataAgentWarning, match=r"reward nobody\. .* set .*policy_share=1\.0"):
        list(train(labels, logits, signals=(uncertainty,)))


def test_the_warm_up_comes_first_where_the_final_phase_begins_in_it():
    with pytest.warns(DataAgentWarning, match="nothing will be selected"):
        agent = DataAgent(1000, 10, keep_ratio=0.1, seed=0)
    seen = [agent.select(epoch).index for epoch in range(10)]
    assert len(torch.cat(seen).unique()) == 1000


def test_without_labels_the_final_phase_visits_all_alike():
    agent = DataAgent(100, 24, keep_ratio=0.4, seed=0)
    losses, logits = torch.rand(100), torch.rand(100, 10)
    visits = torch.zeros(100)
    for epoch in agent.epochs():
        index = agent.select(epoch).index
        if agent.schedule.plan(epoch).phase == "final":
            visits[index] += 1
        agent.observe(Feedback(index, losses[index], logits[index], logits[index]))
    assert visits.sum() == 3 * 40
    assert visits.max() - visits.min() == 1


def test_of_few_classes_none_is_suspected():
    """With two, the evidence is no more than the error on the training data."""
    draws = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (500,), generator=draws)
    *_, (agent, _, _) = train(labels, torch.randn(500, 2, generator=draws))
    assert agent.metrics()["suspected_share"] == 0


def test_right_labels_are_hardly_suspected():
    draws = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 10, (2000,), generator=draws)
    logits = torch.randn(2000, 10, generator=draws)
    logits[torch.arange(2000), labels] += 3
    *_, (agent, _, _) = train(labels, logits)
    assert agent.metrics()["suspected_share"] < 0.01


@pytest.mark.parametrize("seed", range(40))
def test_whatever_is_known_the_choice_is_exact_and_takes_suspects_last(seed):
    draws = torch.Generator().manual_seed(seed)

    def whole(low, high):
        return int(torch.randint(low, high, (), generator=draws))

    size, num_classes = whole(1, 150), whole(1, 30)
    table = ClassTable(size, balance=seed % 3 > 0, drop_suspects=seed % 4 > 0)
    labels = torch.randint(-1, num_classes, (size,), generator=draws).float()
    margins = 2 * torch.rand(size, generator=draws) - 1
    evidence = (torch.rand(size, generator=draws) < 0.4).float()
    visited = torch.rand(size, generator=draws) < 0.8
    table.merge(
        visited.nonzero().squeeze(1), torch.stack([labels, margins, evidence], dim=1)[visited]
    )
    scores = torch.randint(0, 20, (size,), generator=draws).float()
    excluded = torch.rand(size, generator=draws) < 0.3
    suspects = table.suspects()
    for count in range(int((~excluded).sum()) + 1):
        chosen = table.choose(scores, count, excluded, tie_seed=seed)
        assert len(chosen.unique()) == len(chosen) == count
        assert not excluded[chosen].any()
        num_others = int((~suspects & ~excluded).sum())
        assert int(suspects[chosen].sum()) == max(0, count - num_others)
