"""The embedded digits are those of scikit-learn, though it is not imported for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from data_agent_lab.data import digits


def test_they_are_those_that_scikit_learn_gives() -> None:
    expected: Any = load_digits()
    levels, target = digits.read_digits()
    assert np.array_equal(levels, expected["images"])
    assert np.array_equal(target, expected["target"])


def test_without_them_scikit_learn_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits, "find_spec", lambda _: None)
    with pytest.raises(ModuleNotFoundError, match=r"scikit-learn is needed for .*digits\.csv\.gz"):
        digits.read_digits()
