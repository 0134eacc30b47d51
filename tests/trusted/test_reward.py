"""What the learned reward tells apart, and that it goes on after a restore as if nothing was."""

import copy
import warnings

import pytest
import torch

from data_agent.errors import DataAgentWarning
from data_agent.selecting.feedback import Feedback
from data_agent.trusted.likeness import fit
from data_agent.trusted.reward import TrustedReward
from data_agent.trusted.signals import row_classes, row_signals

NUM_SAMPLES, NUM_CLASSES = 400, 5


def rated(reward, step, *, wrong_share=0.4, updates=True):
    """One batch of everybody: of those that are not trusted, some labels are wrong."""
    draws = torch.Generator().manual_seed(step)
    truth = torch.randint(NUM_CLASSES, (NUM_SAMPLES,), generator=draws)
    is_wrong = torch.rand(NUM_SAMPLES, generator=draws) < wrong_share
    is_wrong[:50] = False  # trusted
    logits = torch.randn(NUM_SAMPLES, NUM_CLASSES, generator=draws)
    logits[torch.arange(NUM_SAMPLES), truth] += 2  # the model knows something
    labels = torch.where(is_wrong, (truth + 1) % NUM_CLASSES, truth)
    losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    feedback = Feedback(torch.arange(NUM_SAMPLES), losses, logits, labels=labels)
    uniform = torch.ones(NUM_SAMPLES, dtype=torch.bool)
    score = reward.rate(feedback, uniform, torch.full((NUM_SAMPLES,), step))
    if updates:
        reward.update()
    return score, is_wrong


def new_reward(seed=0, **options):
    return TrustedReward(torch.arange(NUM_SAMPLES) < 50, seed=seed, ridge=1.0, **options)


def test_rows_with_wrong_labels_score_lower():
    reward = new_reward()
    assert rated(reward, 0)[0].tolist() == [0.0] * NUM_SAMPLES
    score, is_wrong = rated(reward, 1)
    assert score[~is_wrong].mean() > score[is_wrong].mean() + 0.5
    metrics = reward.metrics()
    assert 0.6 < metrics["trusted_separation"] < 0.9
    assert 0.5 < metrics["trusted_separation_held_back"] < 1.0


def test_nothing_to_tell_apart_gives_scores_near_zero():
    reward = new_reward()
    for step in range(3):
        score, _ = rated(reward, step, wrong_share=0.0)
    assert score.abs().mean() < 0.35
    assert abs(reward.metrics()["trusted_separation_held_back"] - 0.5) < 0.2


def test_what_is_learned_by_heart_counts_little():
    """Rows look the same at each visit, and trusted ones look like all others."""
    features = torch.randn(NUM_SAMPLES, 32, generator=torch.Generator().manual_seed(0))
    rows = Feedback(torch.arange(NUM_SAMPLES), torch.ones(NUM_SAMPLES), features=features)
    reward, everybody = new_reward(), torch.ones(NUM_SAMPLES, dtype=torch.bool)
    for step in range(10):
        reward.rate(rows, everybody, torch.full((NUM_SAMPLES,), step))
        assert reward.update()
    metrics = reward.metrics()
    assert metrics["trusted_separation"] > 0.7  # of fifty rows
    assert abs(metrics["trusted_separation_held_back"] - 0.5) < 0.1
    assert metrics["trusted_calibration"] < 0.4  # fifty rows prove only so much
    assert reward._likeness is not None
    odds = reward._likeness(torch.cat([row_signals(rows), features], 1), row_classes(rows))
    expected = metrics["trusted_calibration"] * odds
    torch.testing.assert_close(reward.peek(rows), expected.float(), rtol=1e-5, atol=1e-6)


def test_a_restored_reward_goes_on_bitwise():
    reward, other = new_reward(), new_reward()
    rated(reward, 0)
    rated(reward, 1, updates=False)  # rows that were not learned from yet
    other.load_state_dict(copy.deepcopy(reward.state_dict()))
    for step in (2, 3):
        assert torch.equal(rated(reward, step)[0], rated(other, step)[0])
    assert reward.metrics() == other.metrics()


def of_classes(reward, trusted, others):
    """Two batches in which rows differ by their class only; trusted ones come first."""
    for step in range(2):
        labels = torch.cat([trusted, others])
        feedback = Feedback(
            torch.arange(NUM_SAMPLES),
            torch.ones(NUM_SAMPLES),
            torch.zeros(NUM_SAMPLES, 2),
            labels=labels,
        )
        everybody = torch.ones(NUM_SAMPLES, dtype=torch.bool)
        reward.rate(feedback, everybody, torch.full((NUM_SAMPLES,), step))
        reward.update()


def test_classes_it_asks_for_are_named():
    reward = new_reward()
    assert reward.in_words() == "nothing learned yet"
    of_classes(reward, torch.arange(50) % 2, torch.zeros(350, dtype=torch.int64))
    assert reward.in_words().startswith("more of class 1, less of class 0, ranks a trusted row")
    alike = new_reward()
    of_classes(alike, torch.arange(50) % 2, torch.arange(350) % 2)
    assert alike.in_words().startswith("all classes alike, ranks a trusted row above another in")


def test_trusted_rows_of_one_class_are_warned_of_where_others_have_more():
    ones, both = torch.ones(50, dtype=torch.int64), torch.arange(350) % 2
    says = r"all 50 visits of trusted rows .* are of class 1, of 350 visits of other rows 50 %"
    with pytest.warns(DataAgentWarning, match=says) as warned:
        of_classes(new_reward(), ones, both)
    assert len(warned) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        of_classes(new_reward(), ones, torch.ones(350, dtype=torch.int64))
        of_classes(new_reward(), torch.cat([ones[1:], torch.tensor([0])]), both)


def test_class_shares_of_the_data_are_left_as_they_are():
    """Trusted rows were picked by hand: as many of each class, or all of one."""
    rare = (torch.arange(350) % 10 == 0).long()
    rows = Feedback(torch.arange(2), torch.ones(2), torch.zeros(2, 2), labels=torch.tensor([0, 1]))
    for trusted in (torch.arange(50) % 2, torch.ones(50, dtype=torch.int64)):
        reward = new_reward(class_shares="data")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            of_classes(reward, trusted, rare)
        assert float(reward.peek(rows).abs().max()) < 0.01
        assert reward.metrics()["trusted_separation_held_back"] == 0.5
    asking = new_reward()
    of_classes(asking, torch.arange(50) % 2, rare)
    assert float(asking.peek(rows).diff()) > 0.5


def test_within_classes_wrong_labels_are_found_with_the_shares_of_the_data_too():
    reward = new_reward(class_shares="data")
    for step in range(3):
        score, is_wrong = rated(reward, step)
    assert score[~is_wrong].mean() > score[is_wrong].mean() + 0.5
    assert 0.55 < reward.metrics()["trusted_separation_held_back"] < 1.0
    assert reward.in_words().startswith("class shares as in the data, ranks a trusted row above")


def test_of_too_few_visits_nothing_is_said():
    reward = TrustedReward(torch.arange(NUM_SAMPLES) < 4, seed=0, ridge=1.0)
    for step in range(4):  # the first of five folds is left out with one row, visited four times
        rated(reward, step)
    assert list(reward.metrics()) == ["trusted_separation", "trusted_calibration"]
    assert "pairs" not in reward.in_words()


@pytest.mark.parametrize("seed", [0, 1, 42])
def test_every_seed_makes_folds_of_equal_size(seed):
    kinds = TrustedReward(torch.arange(NUM_SAMPLES) < 24, seed=seed, ridge=1.0)._kind
    assert torch.bincount(kinds.long()).tolist() == [NUM_SAMPLES - 24, 5, 5, 5, 5, 4]


def test_every_trusted_row_is_left_out_once_in_five_regressions(monkeypatch):
    reward, fitted = new_reward(), []

    def noted(signals, classes, is_trusted, **more):
        fitted.append(int(is_trusted.sum()))
        return fit(signals, classes, is_trusted, **more)

    monkeypatch.setattr("data_agent.trusted.contrast.fit", noted)
    for step in range(5):
        rated(reward, step)
    assert fitted == [40 * (step + 1) for step in range(5)]  # of 50 in each step
    assert len(set(reward._of_folds)) == 5


def test_after_the_first_pass_trusted_rows_of_clean_data_seem_no_easier():
    """Before it every row is drawn uniformly; behind it one in ten, and trusted ones always."""
    reward = TrustedReward(torch.arange(NUM_SAMPLES) < 50, seed=0, ridge=1.0)
    draws = torch.Generator().manual_seed(0)
    for step in range(80):
        is_late = step >= 60
        index = torch.randperm(NUM_SAMPLES, generator=draws)[:40]
        if is_late:
            index = torch.cat([torch.arange(10), 50 + index[:10] % 350])
        losses = torch.rand(len(index), generator=draws) + (0.0 if is_late else 1.0)
        uniform = torch.ones(len(index), dtype=torch.bool)
        reward.rate(Feedback(index, losses), uniform, torch.full((len(index),), step))
    assert reward.update()
    easy_and_hard = reward.peek(Feedback(torch.tensor([100, 101]), torch.tensor([0.5, 1.5])))
    assert float(easy_and_hard.diff().abs()) < 0.5
    assert abs(reward.metrics()["trusted_separation"] - 0.5) < 0.1
