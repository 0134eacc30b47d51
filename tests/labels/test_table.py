"""What is remembered of labels, and what the rules allow a ranking to choose."""

import pytest
import torch

from data_agent import Feedback
from data_agent.errors import CheckpointError, InputError
from data_agent.labels import LabelRules
from data_agent.labels.classes import Classes
from data_agent.labels.table import FIRST, STEPS, UNSEEN, LabelTable, lowest_of_each

FEW = LabelRules(fewest_classes=2)


def in_steps(margins):
    """int8 127ths; 2 stands for a margin that was never seen."""
    margins = torch.as_tensor(margins, dtype=torch.float32)
    return torch.where(margins == 2, UNSEEN, (STEPS * margins).round()).to(torch.int8)


def test_doubtful_are_the_lowest_margins_of_each_class():
    margin = in_steps([0.9, -0.5, 0.1, 0.8, -0.9, -0.8, -0.7, -0.6])
    classes = Classes(torch.tensor([0, 0, 0, 0, 1, 1, 1, 1], dtype=torch.int16))
    assert lowest_of_each(margin, classes, 0.3).nonzero().squeeze(1).tolist() == [1, 4]
    assert not lowest_of_each(margin, classes, 0.2).any()


def rows_of(labels, margins, last, first=None):
    """Rows as a batch of two classes gives them; `last` is what of a last place is each label's."""
    first = torch.ones(len(labels)) if first is None else first
    return {
        "label": torch.tensor(labels, dtype=torch.int32),
        "margin": in_steps(margins),
        "signs": (FIRST * first + (STEPS * torch.tensor(last)).round()).to(torch.uint8),
    }


def table_of(labels, margins, last, *, first=None, rules=FEW, num_classes=2):
    table = LabelTable(len(labels), rules)
    index, logits = torch.arange(len(labels)), torch.zeros(len(labels), num_classes)
    no_labels = torch.full((len(labels),), -100)
    table.record(Feedback(index, torch.zeros(len(labels)), logits, labels=no_labels))
    table.merge(index, rows_of(labels, margins, last, first))
    return table


def chosen_by(table, *arguments, **options):
    return table.choose(*arguments, **options).nonzero().squeeze(1)


def test_doubtful_labels_are_chosen_only_where_no_others_are_left():
    labels, margins = [0] * 100, torch.linspace(-0.9, 0.9, 100).tolist()
    evidence = [0.7] * 30 + [0.0] * 70  # 21 of a hundred
    table = table_of(labels, margins, evidence)
    scores, excluded = torch.linspace(1, 0, 100), torch.zeros(100, dtype=torch.bool)
    assert table.left_out().nonzero().squeeze(1).tolist() == list(range(21))
    assert chosen_by(table, scores, 30, excluded, tie_seed=0).tolist() == list(range(21, 51))
    excluded[99] = True
    chosen = chosen_by(table, scores, 80, excluded, tie_seed=0).tolist()
    assert chosen == list(range(19, 99))  # the least of them
    believing = LabelRules(fewest_classes=2, doubtful_labels=False)
    believing_table = table_of(labels, margins, evidence, rules=believing)
    assert chosen_by(believing_table, scores, 3, excluded, tie_seed=0).tolist() == [0, 1, 2]
    few_signs = table_of(labels, margins, [1.0, 1.0] + [0.0] * 98, num_classes=12)
    assert not few_signs.left_out().any()


def test_no_label_is_doubted_while_the_model_is_near_chance():
    labels, margins = [0] * 100, torch.linspace(-0.9, 0.9, 100).tolist()
    evidence = [1.0] * 40 + [0.0] * 60
    first = torch.arange(100) < 23  # fewer than two fifths of the 60 that would be believed
    held_back = table_of(labels, margins, evidence, first=first)
    assert held_back.doubtful_share == 0
    assert "near chance" in held_back.in_words()
    assert not held_back.suspects().any()
    first[23:26] = True
    assert table_of(labels, margins, evidence, first=first).doubtful_share == pytest.approx(0.4)


@pytest.mark.parametrize("rules", [FEW, LabelRules(), LabelRules(doubtful_labels=False)])
def test_what_a_person_was_shown_does_not_vanish_as_the_model_memorises_it(rules):
    labels, margins = [0] * 100, torch.linspace(-0.9, 0.9, 100).tolist()
    table = table_of(labels, margins, [1.0] * 40 + [0.0] * 60, rules=rules)
    early = table.suspects()
    assert early.nonzero().squeeze(1).tolist() == list(range(40))
    for late in ([1.0] * 9 + [0.0] * 91, [0.0] * 100):
        table.merge(torch.arange(100), rows_of(labels, [0.95] * 100, late))
    assert not table.left_out().any()
    assert torch.equal(table.suspects(), early)


def test_samples_without_a_label_come_as_often_as_they_are_there_and_are_not_doubted():
    labels = [-1] * 20 + [0] * 90 + [1] * 90
    margins = [2.0] * 20 + [-0.5] * 60 + [0.5] * 120
    table = table_of(labels, margins, [0.0] * 20 + [1.0] * 60 + [0.0] * 120)
    assert not table.left_out()[:20].any()
    excluded = torch.zeros(200, dtype=torch.bool)
    chosen = chosen_by(table, torch.rand(200), 70, excluded, tie_seed=0)
    assert (chosen < 20).sum() == round(70 * 20 / (200 - int(table.left_out().sum())))


def test_a_visit_without_a_label_and_labels_of_no_class_take_nothing_away():
    table = table_of([3, 3], [0.8, 0.8], [0.0, 0.0])
    index, logits = torch.arange(2), torch.rand(2, 12)
    for labels in (None, torch.tensor([-100, 255])):
        before = table.state_dict()
        table.merge(index, table.record(Feedback(index, torch.rand(2), logits, labels=labels)))
        unlike = {name: before[name] for name in ("num_classes", "num_merges")}
        after = {**table.state_dict(), **unlike}
        for name, value in before.items():
            assert (
                after[name] == value if isinstance(value, int) else torch.equal(after[name], value)
            )


def test_a_margin_is_averaged_over_visits():
    table = table_of([0, 0], [0.8, 0.8], [0.0, 0.0])
    table.merge(torch.tensor([1]), rows_of([0], [-0.4], [0.0]))
    margin = table.state_dict()["margin"] / STEPS
    torch.testing.assert_close(margin, torch.tensor([0.8, 0.2]), rtol=0, atol=1 / STEPS)


def test_no_labels_or_those_that_do_not_count_change_nothing():
    table = LabelTable(4, LabelRules())
    index, losses, logits = torch.arange(4), torch.rand(4), torch.rand(4, 12)
    for labels in (None, torch.full((4,), -100)):
        table.merge(index, table.record(Feedback(index, losses, logits, labels=labels)))
        assert table.doubtful_share == 0
        scores, excluded = torch.tensor([0.1, 0.9, 0.8, 0.2]), torch.zeros(4, dtype=torch.bool)
        assert chosen_by(table, scores, 2, excluded, tie_seed=0).tolist() == [1, 2]


def bytes_of(state):
    return sum(value.nbytes for value in state.values() if isinstance(value, torch.Tensor))


def test_a_sample_costs_six_bytes_none_before_and_eight_where_labels_are_large():
    table = LabelTable(10_000, LabelRules())
    assert bytes_of(table.state_dict()) <= 16
    index = torch.arange(10_000)
    for label, num_bytes in ((32_767, 6), (32_768, 8)):
        table.merge(index[:1], rows_of([label], [0.5], [0.0]))
        assert bytes_of(table.state_dict()) <= num_bytes * 10_000 + 16
        assert table.state_dict()["label"][0] == label
    restored = LabelTable(10_000, LabelRules())
    restored.load_state_dict(table.state_dict())
    assert restored.state_dict()["label"].dtype == torch.int32


def test_margins_are_right_on_average_however_long_the_memory_is():
    """Rounded to the nearest 127th, a change of a fifth of one would never be seen."""
    size = 20_000
    table = LabelTable(size, LabelRules(fewest_classes=2, memory=0.99))
    margins = [0.0, *[0.2] * 20]
    for margin in margins:
        rows = rows_of([0] * size, [margin] * size, [0.0] * size)
        table.merge(torch.arange(size), rows)
    state = table.state_dict()
    now = round(0.2 * STEPS) / STEPS
    assert state["margin"].float().mean() / STEPS == pytest.approx(now * (1 - 0.99**20), abs=2e-3)
    assert state["mean"].float().mean() / STEPS == pytest.approx(now * 20 / 21, abs=2e-3)
    assert (state["visits"] == 21).all()


def test_equal_margins_are_drawn_and_by_another_draw_in_each_epoch():
    table = table_of([0] * 400, [-0.5] * 400, [1.0] * 160 + [0.0] * 240)
    first = table.left_out()
    assert int(first.sum()) == 160
    assert torch.equal(first, table.left_out())
    table.merge(torch.arange(400), rows_of([0] * 400, [-0.5] * 400, [1.0] * 160 + [0.0] * 240))
    assert 40 < int((first & table.left_out()).sum()) < 90  # 64 expected


def test_large_class_numbers_are_kept_as_they_are():
    table = LabelTable(2, LabelRules(doubtful_labels=False))
    index, labels = torch.arange(2), torch.tensor([2**24 + 1, 2**31 - 1])
    table.merge(index, table.record(Feedback(index, torch.rand(2), labels=labels)))
    assert table.state_dict()["label"].tolist() == labels.tolist()


@pytest.mark.parametrize(
    ("num_classes", "rules", "words"),
    [
        (2, LabelRules(), "equal class shares; doubtful labels: off, 2 classes"),
        (12, LabelRules(doubtful_labels=False), "doubtful labels: off, by its setting"),
        (12, LabelRules(class_shares=False), "class shares: off"),
        (12, LabelRules(), "off, fewer than 20% look wrong"),
    ],
)
def test_words_say_what_is_off_and_why_and_metrics_of_it_are_absent(num_classes, rules, words):
    table = LabelTable(4, rules)
    index, logits = torch.arange(4), torch.eye(4, num_classes) * 5
    labels = torch.arange(4) % num_classes
    logits[torch.arange(4), labels] = 9
    table.merge(index, table.record(Feedback(index, torch.rand(4), logits, labels=labels)))
    assert words in table.in_words()
    assert ("doubtful_share" in table.metrics()) == (num_classes > 2 and rules.doubtful_labels)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"class_shares": 1}, "class_shares is 1; expected True or False"),
        ({"fewest_classes": 1}, "fewest_classes is 1; expected a whole number, 2 or more"),
        ({"least_share": 1.5}, r"least_share is 1.5; expected a share in \[0, 1\]"),
        ({"memory": 1.0}, "no visit would count"),
    ],
)
def test_settings_out_of_range_are_named(settings, text):
    with pytest.raises(InputError, match=text):
        LabelRules(**settings)


def test_a_damaged_table_is_refused():
    table = table_of([0, 1], [0.8, 0.8], [0.0, 0.0])
    for name, bad, text in (
        ("label", torch.tensor([0, -7], dtype=torch.int16), "a label is -7"),
        ("margin", torch.tensor([0.0, 0.7]), "'margin' is .* expected .* torch.int8"),
        ("shares", torch.tensor([0.0, torch.nan], dtype=torch.float64), "not finite"),
    ):
        with pytest.raises(CheckpointError, match=text):
            table.load_state_dict({**table.state_dict(), name: bad})


@pytest.mark.parametrize("seed", range(40))
def test_whatever_is_known_the_choice_is_exact_and_takes_doubtful_labels_last(seed):
    draws = torch.Generator().manual_seed(seed)

    def whole(low, high):
        return int(torch.randint(low, high, (), generator=draws))

    size, num_classes = whole(1, 150), whole(1, 30)
    rules = LabelRules(fewest_classes=2, class_shares=seed % 3 > 0, doubtful_labels=seed % 4 > 0)
    table = LabelTable(size, rules)
    table._num_classes = 2
    labels = torch.randint(-1, num_classes, (size,), generator=draws)
    margins = 2 * torch.rand(size, generator=draws) - 1
    last = (torch.rand(size, generator=draws) < 0.4).float()
    visited = torch.rand(size, generator=draws) < 0.8
    rows = rows_of(labels.tolist(), margins.tolist(), last.tolist())
    index = visited.nonzero().squeeze(1)
    table.merge(index, {name: column[visited] for name, column in rows.items()})
    scores = torch.randint(0, 20, (size,), generator=draws).float()
    excluded = torch.rand(size, generator=draws) < 0.3
    doubtful = table.left_out()
    for count in range(int((~excluded).sum()) + 1):
        chosen = table.choose(scores, count, excluded, tie_seed=seed)
        assert int(chosen.sum()) == count
        assert not excluded[chosen].any()
        num_others = int((~doubtful & ~excluded).sum())
        assert int(doubtful[chosen].sum()) == max(0, count - num_others)
