"""The slope that odds are shrunk by, against the regression that it follows."""

import pytest
import torch

from data_agent.errors import CheckpointError
from data_agent.trusted.calibration import PRIOR, CalibrationSlope

FOLDS = 5


def held_out(*, size, slope, seed=0):
    """Scores of as many trusted rows as others, whose true log-odds are `slope` times the score."""
    draws = torch.Generator().manual_seed(seed)
    score = 1.5 * torch.randn(4 * size, generator=draws, dtype=torch.float64)
    is_trusted = torch.rand(4 * size, generator=draws) < torch.sigmoid(slope * score)
    take = torch.cat([(is_trusted == kind).nonzero().squeeze(1)[:size] for kind in (True, False)])
    return score[take], is_trusted[take], torch.zeros(2 * size, dtype=torch.int64)


def followed(slope, *, size, rounds=12, repeats=1):
    calibration = CalibrationSlope(FOLDS)
    for number in range(rounds * FOLDS):
        rows = held_out(size=size, slope=slope, seed=number % FOLDS)
        rows = [torch.cat([column] * repeats) for column in rows]
        calibration.update(*rows, num_trusted=size)
    return calibration.value


@pytest.mark.parametrize("slope", [0.0, 0.3, 0.8])
def test_it_finds_the_true_slope(slope):
    assert followed(slope, size=400) == pytest.approx(slope, abs=0.06)


def test_odds_that_say_too_little_are_left_as_they_are():
    assert followed(1.5, size=400) == 1.0


def test_it_is_where_the_penalised_likelihood_of_all_folds_is_highest():
    """Solved anew on all folds together, each row of weight one, beside the prior."""
    size = 30
    folds = [held_out(size=size, slope=0.4, seed=fold) for fold in range(FOLDS)]
    score = torch.cat([fold[0] for fold in folds])
    is_trusted = torch.cat([fold[1] for fold in folds]).double()
    slopes = torch.linspace(0, 1, 2001, dtype=torch.float64)
    odds = slopes.unsqueeze(1) * score
    likelihood = (is_trusted * odds - torch.nn.functional.softplus(odds)).sum(1)
    best = float(slopes[(likelihood - PRIOR / 2 * (1 - slopes) ** 2).argmax()])
    assert followed(0.4, size=size) == pytest.approx(best, abs=0.03)


def test_a_row_counts_once_however_often_it_was_visited():
    assert followed(0.0, size=2, repeats=30) == pytest.approx(followed(0.0, size=2), abs=0.02)


def test_a_few_rows_prove_little():
    assert followed(0.0, size=2, rounds=1) > 0.3 > followed(0.0, size=400, rounds=1)


def test_without_rows_of_both_kinds_nothing_is_learned():
    calibration = CalibrationSlope(FOLDS)
    score, is_trusted, period = held_out(size=2, slope=0.0)
    calibration.update(score[:2], is_trusted[:2], period[:2], num_trusted=2)
    assert calibration.state_dict() == CalibrationSlope(FOLDS).state_dict()


def test_a_damaged_state_is_refused():
    calibration, other = CalibrationSlope(FOLDS), CalibrationSlope(FOLDS)
    calibration.update(*held_out(size=20, slope=0.0), num_trusted=20)
    other.load_state_dict(calibration.state_dict())
    assert other.state_dict() == calibration.state_dict()
    for name, value in (("value", 1.5), ("value", float("nan")), ("curvature", -1.0)):
        with pytest.raises(CheckpointError, match="calibration of trusted rows is damaged"):
            other.load_state_dict(calibration.state_dict() | {name: value})
