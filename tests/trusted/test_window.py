"""Which rows the regression sees: late ones, as many of each kind as fit, whatever was saved."""

import pytest
import torch

from data_agent.errors import CheckpointError
from data_agent.trusted.window import FOLDS, POOL, Window, WindowRows

TRUSTED = 1  # of the first fold


def rows_of(step, kinds):
    size = len(kinds)
    return WindowRows(
        torch.full((size, 2), float(step)),
        torch.full((size, 3), float(step)),
        torch.arange(size),
        torch.tensor(kinds),
        torch.full((size,), step),
    )


def steps_of(rows):
    """The steps of rows drawn uniformly, and of trusted ones."""
    return rows.step[rows.kind == POOL].tolist(), rows.step[rows.kind != POOL].tolist()


def test_rows_of_late_steps_stay():
    window = Window(num_steps=3, least_trusted=0, max_rows=100)
    for step in range(5):
        window.add(rows_of(step, [POOL, TRUSTED]))
    assert window.share().step.tolist() == [2, 2, 3, 3, 4, 4]
    window.add(rows_of(5, [POOL]))
    assert window.share().step.tolist() == [3, 3, 4, 4, 5]


def test_it_reaches_back_where_few_rows_are_trusted_and_both_kinds_come_from_the_same_steps():
    window = Window(num_steps=3, least_trusted=2, max_rows=100)
    for step in range(30):
        window.add(rows_of(step, [POOL, POOL, TRUSTED if step % 10 == 0 else POOL]))
        rows = window.share()
    others, trusted = steps_of(rows)
    assert trusted == [10, 20]
    assert set(others) == set(range(10, 30))


def test_before_enough_trusted_rows_came_every_step_counts():
    window = Window(num_steps=3, least_trusted=5, max_rows=100)
    for step in range(20):
        window.add(rows_of(step, [POOL, *([TRUSTED] if step in (1, 12) else [])]))
        others, trusted = steps_of(window.share())
    assert trusted == [1, 12]
    assert others == list(range(20))


def test_of_each_step_as_many_rows_stay_where_there_are_more_than_it_holds():
    window = Window(num_steps=4, least_trusted=0, max_rows=8)
    for step in range(9):
        window.add(rows_of(step, [POOL] * 20 + [TRUSTED] * 3))
        if step % 3 == 2:
            rows = window.share()
    others, trusted = steps_of(rows)
    assert others == trusted == [5, 5, 6, 6, 7, 7, 8, 8]


@pytest.mark.parametrize("num_steps", [1000, 5000])
def test_a_long_window_holds_no_more_rows(num_steps):
    window = Window(num_steps=10, least_trusted=50, max_rows=100)
    for step in range(num_steps):
        window.add(rows_of(step, [POOL, POOL, *([TRUSTED] if step % 100 == 7 else [])]))
        if step % 10 == 9:
            rows = window.share()
    others, trusted = steps_of(rows)
    assert trusted == list(range(7, num_steps, 100))[-50:]
    assert 50 <= len(others) <= 101  # and the newest one
    middle = (num_steps + trusted[0]) / 2
    assert abs(sum(others) / len(others) - middle) < 0.05 * num_steps  # spread over all of it


def test_without_new_rows_that_were_drawn_uniformly_nothing_new_is_known():
    window = Window(num_steps=3, least_trusted=0, max_rows=100)
    window.add(rows_of(0, [POOL, TRUSTED]))
    assert len(window.share().step) == 2
    for step in range(1, 9):
        window.add(rows_of(step, [TRUSTED, FOLDS]))
        assert window.share() is None
    window.add(rows_of(9, [POOL, TRUSTED]))
    assert window.share().step.tolist() == [7, 7, 8, 8, 9, 9]


def small_window():
    return Window(num_steps=3, least_trusted=0, max_rows=4)


def test_nothing_is_shared_before_a_row_came():
    window = Window(num_steps=3, least_trusted=0, max_rows=10)
    assert window.share() is None
    window.add(rows_of(0, []))
    assert window.share() is None


def test_a_restored_window_goes_on_as_the_saved_one():
    window, other = small_window(), small_window()
    window.add(rows_of(0, [POOL, TRUSTED]))
    window.share()
    window.add(rows_of(1, [POOL]))
    other.load_state_dict(window.state_dict())
    for one in (window, other):
        one.add(rows_of(2, [TRUSTED, POOL]))
    for expected, found in zip(window.share(), other.share(), strict=True):
        assert torch.equal(expected, found)


@pytest.mark.parametrize(
    "damage",
    [
        lambda rows: rows.__setitem__(0, rows[0].double()),
        lambda rows: rows.__setitem__(0, rows[0] * torch.nan),
        lambda rows: rows.__setitem__(1, rows[1] * torch.inf),
        lambda rows: rows.__setitem__(2, rows[2][:1]),
        lambda rows: rows.__setitem__(3, rows[3] + FOLDS),
    ],
)
def test_damaged_rows_are_refused(damage):
    window = small_window()
    window.add(rows_of(0, [POOL, TRUSTED]))
    window.share()
    state = window.state_dict()
    damage(state["shared"])
    with pytest.raises(CheckpointError, match="damaged"):
        small_window().load_state_dict(state)


def test_a_state_of_a_version_without_features_is_refused():
    window = small_window()
    window.add(rows_of(0, [POOL, TRUSTED]))
    window.share()
    state = window.state_dict()
    del state["shared"][1]
    with pytest.raises(CheckpointError, match=r"4 columns; expected 5: .* another version"):
        small_window().load_state_dict(state)
