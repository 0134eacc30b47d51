"""The regression between trusted rows and all others: its optimum, its meaning, its edges."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from data_agent.trusted.likeness import CLIP, balanced, fit, matched, separation


def made_up(rows=600, num_classes=4, seed=0):
    draws = np.random.default_rng(seed)
    signals = torch.from_numpy(draws.normal(size=(rows, 3)))
    classes = torch.from_numpy(draws.integers(-1, num_classes, size=rows))
    odds = signals @ torch.tensor([1.0, -0.5, 0.0], dtype=torch.float64) + 0.7 * (classes == 2)
    is_trusted = torch.from_numpy(draws.random(rows)) < torch.sigmoid(odds - 1)
    return signals, classes, is_trusted


def test_it_is_scikit_learns_ridge_logistic_regression():
    signals, classes, is_trusted = made_up()
    fitted = fit(signals, classes, is_trusted, num_classes=4, ridge=2.0)
    z = ((signals - signals.mean(0)) / signals.std(0)).clamp(-CLIP, CLIP)
    one_hot = torch.stack([classes == c for c in range(4)], dim=1).double()
    smaller = min(int(is_trusted.sum()), int((~is_trusted).sum()))
    weights = torch.where(is_trusted, smaller / is_trusted.sum(), smaller / (~is_trusted).sum())
    reference = LogisticRegression(C=1 / 2.0, tol=1e-12, max_iter=10_000)
    reference.fit(torch.cat([z, one_hot], 1).numpy(), is_trusted.numpy(), weights.numpy())
    expected = reference.decision_function(torch.cat([z, one_hot], 1).numpy())
    torch.testing.assert_close(
        fitted(signals, classes), torch.from_numpy(expected), rtol=1e-5, atol=1e-5
    )


def test_both_kinds_weigh_the_same_in_each_period():
    is_trusted = torch.tensor([True, True, True, False, True, False, False, False])
    period = torch.tensor([0, 0, 0, 0, 1, 1, 1, 2])
    third = 1 / 3
    expected = [third, third, third, 1.0, 1.0, 0.5, 0.5, 0.0]  # nothing to compare the last with
    torch.testing.assert_close(
        balanced(is_trusted, period), torch.tensor(expected, dtype=torch.float64)
    )


def test_matched_rows_have_the_same_shares_of_groups():
    is_trusted = torch.tensor([True, True, True, True, False, False, False, False, False])
    group = torch.tensor([0, 0, 0, 2, 0, 1, 1, 2, 2])
    third = 1 / 3
    expected = [third, third, third, 2.0, 1.0, 0.0, 0.0, 1.0, 1.0]  # no trusted row is of group 1
    weights = matched(is_trusted, group)
    torch.testing.assert_close(weights, torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(
        torch.bincount(group[is_trusted], weights[is_trusted]),
        torch.bincount(group[~is_trusted], weights[~is_trusted]),
    )
    # Three thirds and a two are worth 9 / (1/3 + 4) rows, fewer than the three of the others.
    effective = 9 / (third + 4)
    both = balanced(is_trusted, torch.zeros_like(group), group)
    torch.testing.assert_close(both, weights * effective / 3)
    alone = balanced(is_trusted, torch.zeros_like(group), torch.arange(9))
    assert alone.tolist() == [0.0] * 9  # no group has both kinds
    one_group = balanced(is_trusted, group, torch.zeros_like(group))
    torch.testing.assert_close(one_group, balanced(is_trusted, group))


def test_shares_of_groups_are_not_learned_and_what_differs_within_them_is():
    draws = torch.Generator().manual_seed(0)
    classes = torch.randint(3, (6000,), generator=draws)
    hard = torch.randn(6000, 1, generator=draws) + classes[:, None]  # and class 2 is the hardest
    odds = -3.0 + 1.5 * (classes == 2) - 1.0 * (hard[:, 0] - classes)
    is_trusted = torch.rand(6000, generator=draws) < torch.sigmoid(odds)
    learned = fit(hard, classes, is_trusted, num_classes=3, ridge=1.0)
    within = fit(hard, classes, is_trusted, num_classes=3, ridge=1.0, group=classes)
    average = torch.tensor([[0.0], [1.0], [2.0]])  # how hard each class is
    of_class, of_group = (fitted(average, torch.arange(3)) for fitted in (learned, within))
    assert float(of_class[2] - of_class[0]) > 1.2
    assert float(of_group.max() - of_group.min()) < 0.3
    easier = within(average - 1, torch.arange(3)) - of_group
    assert bool(((easier > 0.7) & (easier < 1.3)).all())


def test_how_far_training_was_is_not_learned_where_trusted_rows_come_later():
    draws = torch.Generator().manual_seed(0)
    period = torch.arange(2000) // 1000
    is_late = period == 1
    loss = torch.randn(2000, 1, generator=draws) - 2.0 * is_late[:, None]  # the model has learned
    is_trusted = torch.rand(2000, generator=draws) < torch.where(is_late, 0.5, 0.05)
    nobody = torch.full((2000,), -1)
    confused = fit(loss, nobody, is_trusted, num_classes=0, ridge=1.0)
    fitted = fit(loss, nobody, is_trusted, num_classes=0, ridge=1.0, period=period)
    easy, hard = torch.tensor([[-2.0], [0.0]]), torch.tensor([-1, -1])
    assert float(confused(easy, hard).diff().abs()) > 1.0
    assert float(fitted(easy, hard).diff().abs()) < 0.2


def test_features_together_count_as_one_signal():
    signals, classes, is_trusted = made_up()
    features = torch.from_numpy(np.random.default_rng(1).normal(size=(len(signals), 9)))
    columns = torch.cat([signals, features], 1)
    nobody = torch.full_like(classes, -1)
    fitted = fit(columns, nobody, is_trusted, num_classes=0, ridge=2.0, num_features=9)
    z = ((columns - columns.mean(0)) / columns.std(0)).clamp(-CLIP, CLIP)
    z[:, 3:] /= 3  # a weight of the square root of nine costs as much as one of a signal
    smaller = min(int(is_trusted.sum()), int((~is_trusted).sum()))
    weights = torch.where(is_trusted, smaller / is_trusted.sum(), smaller / (~is_trusted).sum())
    reference = LogisticRegression(C=1 / 2.0, tol=1e-12, max_iter=10_000)
    reference.fit(z.numpy(), is_trusted.numpy(), weights.numpy())
    torch.testing.assert_close(
        fitted(columns, nobody),
        torch.from_numpy(reference.decision_function(z.numpy())),
        rtol=1e-5,
        atol=1e-5,
    )


def test_features_that_tell_nothing_are_not_learned_by_heart():
    draws = torch.Generator().manual_seed(0)
    rows, others = torch.randn(2, 400, 64, generator=draws)
    is_trusted = torch.arange(400) < 60
    nobody = torch.full((400,), -1)
    unequal = fit(rows, nobody, is_trusted, num_classes=0, ridge=1.0)
    fitted = fit(rows, nobody, is_trusted, num_classes=0, ridge=1.0, num_features=64)
    unseen, unseen_unequal = fitted(others, nobody).std(), unequal(others, nobody).std()
    assert unseen < 0.6
    assert unseen_unequal > 3 * unseen


def test_its_odds_are_the_ratio_of_densities_however_many_rows_of_each_kind_there_are():
    draws = torch.Generator().manual_seed(0)
    trusted = torch.randn(2_000, 1, generator=draws) + 1  # N(1, 1)
    others = torch.randn(20_000, 1, generator=draws)  # N(0, 1): log ratio s - 1/2
    signals = torch.cat([trusted, others])
    is_trusted = torch.arange(len(signals)) < len(trusted)
    nobody = torch.full((len(signals),), -1)
    fitted = fit(signals, nobody, is_trusted, num_classes=0, ridge=1e-3)
    at = torch.tensor([[-1.0], [0.0], [1.0], [2.0]])
    found = fitted(at, torch.full((4,), -1))
    torch.testing.assert_close(
        found, torch.tensor([-1.5, -0.5, 0.5, 1.5], dtype=torch.float64), rtol=0, atol=0.12
    )


def test_classes_that_trusted_rows_hold_more_often_get_higher_odds():
    classes = torch.tensor([0] * 90 + [1] * 10 + [0] * 50 + [1] * 50)
    is_trusted = torch.arange(200) >= 100  # half of them of class 1, where others have a tenth
    fitted = fit(torch.zeros(200, 1), classes, is_trusted, num_classes=3, ridge=1e-3)
    rare, common, unseen = fitted(torch.zeros(3, 1), torch.tensor([1, 0, 2]))
    assert float(rare - common) == pytest.approx(np.log(0.5 / 0.1) - np.log(0.5 / 0.9), abs=0.02)
    assert common < unseen < rare  # a class that no row had: as if nothing differed


def test_a_fit_starts_from_the_last_one_and_ends_at_the_same_optimum():
    signals, classes, is_trusted = made_up()
    before = fit(*made_up(seed=1), num_classes=4, ridge=1.0)
    cold = fit(signals, classes, is_trusted, num_classes=4, ridge=1.0)
    warm = fit(signals, classes, is_trusted, num_classes=4, ridge=1.0, start=before)
    torch.testing.assert_close(warm.weight, cold.weight, rtol=0, atol=1e-6)
    torch.testing.assert_close(warm.by_class, cold.by_class, rtol=0, atol=1e-6)


def test_rows_that_can_be_told_apart_perfectly_leave_finite_odds():
    signals = torch.cat([torch.full((50, 2), 5.0), torch.full((500, 2), -5.0)])
    is_trusted = torch.arange(550) < 50
    fitted = fit(signals, torch.full((550,), -1), is_trusted, num_classes=0, ridge=1.0)
    odds = fitted(signals, torch.full((550,), -1))
    assert odds.isfinite().all()
    assert odds[0] > 1 > -1 > odds[-1]


def test_a_signal_that_never_varies_tells_nothing():
    signals, classes, is_trusted = made_up()
    constant = torch.cat([signals, torch.full((len(signals), 1), 7.0)], dim=1)
    with_it = fit(constant, classes, is_trusted, num_classes=4, ridge=1.0)
    without = fit(signals, classes, is_trusted, num_classes=4, ridge=1.0)
    torch.testing.assert_close(
        with_it(constant, classes), without(signals, classes), rtol=0, atol=1e-8
    )


def test_separation_is_the_area_under_the_roc_curve():
    draws = np.random.default_rng(0)
    is_trusted = np.arange(450) < 50
    score = draws.integers(0, 9, 450) + 1.0 * is_trusted
    expected = roc_auc_score(is_trusted, score)
    found = separation(torch.from_numpy(score), torch.from_numpy(is_trusted))
    assert found == pytest.approx(expected, abs=1e-12)
    for is_it in (torch.ones, torch.zeros):
        assert separation(torch.rand(3), is_it(3, dtype=torch.bool)) == 0.5


def test_separation_within_periods_is_the_mean_of_theirs_by_the_kind_that_has_fewer():
    draws = torch.Generator().manual_seed(0)
    is_trusted = torch.arange(390) < 90
    score = torch.rand(390, generator=draws).mul(8).round()  # so that some are equal
    # The kinds share three of seven.
    period = torch.randint(5, (390,), generator=draws) + 2 * (~is_trusted).long()
    found, weights = 0.0, 0
    for number in range(7):
        own = period == number
        fewer = int(min((own & is_trusted).sum(), (own & ~is_trusted).sum()))
        found = found + fewer * separation(score[own], is_trusted[own])
        weights = weights + fewer
    assert separation(score, is_trusted, period) == pytest.approx(found / weights)
    assert separation(score, is_trusted, is_trusted.long()) == 0.5


def test_signals_that_say_almost_the_same_do_not_drive_it_apart():
    """Undamped Newton steps diverge here, to odds of hundreds that mean nothing."""
    draws = torch.Generator().manual_seed(0)
    loss = torch.randn(2_000, 1, generator=draws).exp()
    signals = torch.cat(
        [loss, (-loss).exp(), -loss + 1e-3 * torch.randn(2_000, 1, generator=draws)], dim=1
    )
    is_trusted = torch.rand(2_000, generator=draws) < torch.sigmoid(-loss.squeeze(1))
    nobody = torch.full((2_000,), -1)
    started = fit(signals, nobody, is_trusted, num_classes=0, ridge=1.0)
    far_off = replace(started, weight=torch.tensor([90.0, -70.0, 80.0, 5.0]).double())
    for start in (None, started, far_off):
        fitted = fit(signals, nobody, is_trusted, num_classes=0, ridge=1.0, start=start)
        odds = fitted(signals, nobody)
        assert odds.abs().max() < 30
        torch.testing.assert_close(odds, started(signals, nobody), rtol=0, atol=1e-4)
        assert separation(odds, is_trusted) > 0.6


def test_a_start_that_was_too_sure_of_itself_is_left_behind():
    """From there whole Newton steps end at odds of millions (tried on these rows)."""
    draws = torch.Generator().manual_seed(0)

    def rows(count, shift):
        loss = (torch.randn(count, 1, generator=draws) + shift).exp()
        noise = 0.01 * torch.randn(count, 1, generator=draws)
        return torch.cat([loss, (-loss).exp(), noise - loss, (-loss / 2).exp()], dim=1)

    is_trusted, nobody = torch.arange(1000) < 300, torch.full((1000,), -1)
    late = torch.cat([rows(300, -3.0), rows(700, 0.5)])
    early = torch.cat([rows(300, -1.0), rows(700, 0.0)])
    before = fit(early, nobody, is_trusted, num_classes=0, ridge=1.0)
    too_sure = replace(before, weight=6 * before.weight)
    cold = fit(late, nobody, is_trusted, num_classes=0, ridge=1.0)
    warm = fit(late, nobody, is_trusted, num_classes=0, ridge=1.0, start=too_sure)
    torch.testing.assert_close(warm(late, nobody), cold(late, nobody), rtol=0, atol=1e-3)
