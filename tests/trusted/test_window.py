"""Which rows the regression sees: late ones, as many of each kind as fit, whatever was saved."""

import pytest
import torch

from data_agent.errors import CheckpointError
from data_agent.trusted.window import HELD_BACK, POOL, TRUSTED, Window, WindowRows


def rows_of(step, kinds):
    size = len(kinds)
    return WindowRows(
        torch.full((size, 2), float(step)),
        torch.arange(size),
        torch.tensor(kinds),
        torch.full((size,), step),
    )


def test_rows_of_late_steps_stay():
    window = Window(num_steps=3, max_rows=100)
    for step in range(5):
        window.add(rows_of(step, [POOL, TRUSTED]))
    assert window.share(4).step.tolist() == [2, 2, 3, 3, 4, 4]
    assert window.share(6).step.tolist() == [4, 4]
    assert len(window.share(9).step) == 0


def test_of_each_kind_the_newest_rows_stay():
    window = Window(num_steps=100, max_rows=2)
    for step in range(4):
        window.add(rows_of(step, [POOL, POOL, TRUSTED, HELD_BACK]))
    shared = window.share(4)
    assert shared.step[shared.kind == POOL].tolist() == [3, 3]
    assert shared.step[shared.kind != POOL].tolist() == [3, 3]  # held back ones are trusted too


def test_nothing_is_shared_before_a_row_came():
    window = Window(num_steps=3, max_rows=10)
    assert window.share(0) is None
    window.add(rows_of(0, []))
    assert window.share(1) is None


def test_a_restored_window_goes_on_as_the_saved_one():
    window, other = Window(num_steps=3, max_rows=4), Window(num_steps=3, max_rows=4)
    window.add(rows_of(0, [POOL, TRUSTED]))
    window.share(1)
    window.add(rows_of(1, [POOL]))
    other.load_state_dict(window.state_dict())
    for one in (window, other):
        one.add(rows_of(2, [TRUSTED, POOL]))
    for expected, found in zip(window.share(3), other.share(3), strict=True):
        assert torch.equal(expected, found)


@pytest.mark.parametrize(
    "damage",
    [
        lambda rows: rows.__setitem__(0, rows[0].double()),
        lambda rows: rows.__setitem__(0, rows[0] * torch.nan),
        lambda rows: rows.__setitem__(1, rows[1][:1]),
        lambda rows: rows.__setitem__(2, rows[2] + 3),
    ],
)
def test_damaged_rows_are_refused(damage):
    window = Window(num_steps=3, max_rows=4)
    window.add(rows_of(0, [POOL, TRUSTED]))
    window.share(1)
    state = window.state_dict()
    damage(state["shared"])
    with pytest.raises(CheckpointError, match="damaged"):
        Window(num_steps=3, max_rows=4).load_state_dict(state)
